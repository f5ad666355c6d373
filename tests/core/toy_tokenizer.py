"""A tokenizer small enough to check by hand, offered by a plugin of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.artefact import ArtefactConfig, Head
from vtp_core.artefact.assembly import assemble
from vtp_core.bottleneck import Bottleneck
from vtp_core.config import ComponentConfig, ObjectiveConfig
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.features import Features, Latent, Tokens
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.plugins import Plugins, hookimpl
from vtp_core.tokenizer import Tokenizer

PATCH = 4
WIDTH = 3 * PATCH * PATCH


class EncoderConfig(ComponentConfig):
    use: str = "toy"
    scale: float = 1.0


class BottleneckConfig(ComponentConfig):
    use: str = "toy"
    variational: bool = False
    codes: bool = False


class DecoderConfig(ComponentConfig):
    use: str = "toy"


class TextConfig(ObjectiveConfig):
    use: str = "toy_text"
    width: int = 5


class ToyEncoder(Encoder):
    """A token is its patch's pixels, times a learned scale; the class token is their mean."""

    width, patch, depth, has_cls = WIDTH, PATCH, 1, True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), config.scale))
        self.noise = nn.Parameter(torch.randn(3))

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        result = []
        for image in images:
            b, c, _, height, width = image.shape
            patches = F.unfold(image.flatten(0, 1), PATCH, stride=PATCH).transpose(1, 2) * self.scale
            patches = patches.unflatten(0, (b, c))
            result.append(
                Tokens(
                    patches=patches,
                    cls=patches.mean(2),
                    grid=(height // PATCH, width // PATCH),
                    layers={layer: patches + layer for layer in layers},
                )
            )
        return result


class ToyBottleneck(Bottleneck):
    """The identity; with `codes`, the sign of the mean is the code."""

    channels = WIDTH

    def __init__(self, config: BottleneckConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.codebook_sizes = (2,) if config.codes else ()
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def forward(self, features: Features) -> Latent:
        tokens = features["global"]
        logvar = {"global": torch.full_like(tokens.patches, -2.0)} if self.config.variational else None
        codes = None
        if self.config.codes:
            sign = (tokens.patches.mean(-1) > 0).long()
            codes = {"global": sign.unflatten(2, tokens.grid).unsqueeze(2)}
        return Latent(crops={"global": tokens}, logvar=logvar, codes=codes)

    def decode_codes(self, codes: Tensor) -> Tensor:
        return (codes.float() * 2 - 1).expand(-1, self.channels, -1, -1)


class ToyDecoder(Decoder):
    """Patches back to pixels, in [-1, 1] of the unit range so that the range is converted."""

    value_range = (-1.0, 1.0)

    def __init__(self, config: DecoderConfig, dims: Dims) -> None:
        super().__init__()
        assert dims.channels == WIDTH
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor) -> Tensor:
        size = (z.shape[2] * PATCH, z.shape[3] * PATCH)
        image = F.fold(z.flatten(2), size, PATCH, stride=PATCH)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return ((image * std + mean) * 2 - 1) * self.gain


class ImageHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, width, bias=False)

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.project(features.cls[:, 0]), dim=1)


class TextHead(nn.Module):
    """Embeds a text by its length and first letter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(64, width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        codes = [(len(text) * 7 + ord(text[0])) % 64 for text in texts]
        index = torch.tensor(codes, dtype=torch.int64)
        return F.normalize(self.table(index), dim=1)


class ToyText(Objective):
    exports: Mapping[str, str] = {"embed_image": "image_head", "embed_text": "text_head"}

    def __init__(self, config: TextConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.image_head = ImageHead(config.width)
        self.text_head = TextHead(config.width)
        self.not_exported = nn.Linear(2, 2)


def toy_plugins() -> Plugins:
    """Only the toy's components, with bare names."""

    @hookimpl
    def register_encoders(register: Any) -> None:
        register("toy", ToyEncoder, config=EncoderConfig, summary="Toy.")

    @hookimpl
    def register_bottlenecks(register: Any) -> None:
        register("toy", ToyBottleneck, config=BottleneckConfig, summary="Toy.")

    @hookimpl
    def register_decoders(register: Any) -> None:
        register("toy", ToyDecoder, config=DecoderConfig, summary="Toy.")

    @hookimpl
    def register_objectives(register: Any) -> None:
        register("toy_text", ToyText, config=TextConfig, summary="Toy.")

    hooks = (register_encoders, register_bottlenecks, register_decoders, register_objectives)
    plugins = Plugins()
    plugins.add(
        SimpleNamespace(vtp_api=2, **{hook.__name__: hook for hook in hooks}), "toy", distribution="vtp-core"
    )
    return plugins


def toy_config(*, text: bool = True, image_size: int = 16, **bottleneck: bool) -> ArtefactConfig:
    head = Head(
        objective={"use": "toy_text"}, exports={"embed_image": "image_head", "embed_text": "text_head"}
    )
    return ArtefactConfig(
        vtp_version="0",
        recipe="toy",
        step=7,
        encoder={"use": "toy"},
        bottleneck={"use": "toy", **bottleneck},
        decoder={"use": "toy"},
        heads={"words": head} if text else {},
        image_size=image_size,
    )


def toy_tokenizer(*, text: bool = True, image_size: int = 16, **bottleneck: bool) -> Tokenizer:
    return assemble(toy_config(text=text, image_size=image_size, **bottleneck), toy_plugins())
