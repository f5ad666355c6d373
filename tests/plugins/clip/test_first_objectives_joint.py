"""CLIP, L1 and a perceptual loss in the real joint step, against one plain backward, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vtp_core.pixels import SIGNED, convert
from vtp_core.testing import TINY_DIMS, TinyNetworks, drawn_batch
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed
from vtp_plugins.clip.config import ClipConfig
from vtp_plugins.clip.objective import Clip
from vtp_plugins.perceptual.config import PerceptualConfig
from vtp_plugins.perceptual.objective import Perceptual
from vtp_plugins.reconstruction.config import ReconstructionConfig
from vtp_plugins.reconstruction.objective import L1

WEIGHTS = {"clip": 0.3, "l1": 1.0, "perceptual": 0.5}


def _networks() -> Networks:
    torch.manual_seed(0)
    tiny = TinyNetworks().double()
    sizes = {"width": 16, "depth": 1, "heads": 2, "context": 12}
    clip = ClipConfig(use="clip", view="image", weight=0.3, equal_text_mask=False, **sizes)  # type: ignore[arg-type]
    l1 = ReconstructionConfig(use="l1", view="rec")
    perceptual = PerceptualConfig(
        use="perceptual", view="rec", rows=4, weight=0.5, network="lpips_squeeze", weights="random"
    )
    objectives = {
        "clip": Clip(clip, TINY_DIMS),
        "l1": L1(l1, TINY_DIMS),
        "perceptual": Perceptual(perceptual, TINY_DIMS),
    }
    return Networks(
        encoder=tiny.encoder,
        bottleneck=tiny.bottleneck,
        decoder=tiny.decoder,
        objectives={name: objective.double() for name, objective in objectives.items()},
    )


def _gradients(networks: Networks) -> dict[str, Tensor]:
    parameters = {
        name: parameter
        for owner in networks.owners()
        for name, parameter in networks.parameters_of(owner).items()
    }
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


@pytest.mark.parametrize("chunk", [None, 3])
def test_gradients_are_those_of_one_plain_backward(chunk: int | None) -> None:
    from open_clip.loss import ClipLoss

    batches = {
        "image": drawn_batch(ViewNeed(text=True), rows=8, counts={}, dtype=torch.float64),
        "rec": drawn_batch(ViewNeed(), rows=6, counts={}, seed=1, dtype=torch.float64),
    }
    ours = _networks()
    result = JointStep(ours, World(), ForwardOptions(total=10, microbatch_rows=chunk))(batches, 0)

    plain = _networks()
    clip, perceptual = plain.objectives["clip"], plain.objectives["perceptual"]
    assert isinstance(clip, Clip) and isinstance(perceptual, Perceptual)
    (tokens,) = plain.encoder([batches["image"].crops["global"]], [None])
    assert tokens.cls is not None and batches["image"].text is not None
    image = F.normalize(tokens.cls[:, 0] @ clip.image.projection.weight.T, dim=1)
    terms = {"clip": ClipLoss()(image, clip.text(list(batches["image"].text)), clip.logit_scale.exp())}
    (tokens,) = plain.encoder([batches["rec"].crops["global"]], [None])
    z = plain.bottleneck.project(tokens.patches[:, 0]).transpose(1, 2).unflatten(2, tokens.grid)  # type: ignore[operator]
    made, target = plain.decoder(z), batches["rec"].image
    terms["l1"] = (made - target).abs().mean()
    signed = [convert(pixels[:4], "imagenet", SIGNED) for pixels in (made, target)]
    terms["perceptual"] = perceptual.compare.network(*signed).mean()
    sum(WEIGHTS[name] * term for name, term in terms.items()).backward()  # type: ignore[union-attr]

    for name, term in terms.items():
        (found,) = [value for key, value in result.terms.items() if key.startswith(f"{name}/")]
        assert found == pytest.approx(term.item(), rel=1e-12)
    expected, got = _gradients(plain), _gradients(ours)
    assert expected.keys() == got.keys() and len(expected) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
