"""Decodes of perturbed latents and codes, and their distances to the decodes without perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Baseline, Score
from vtp_core.math.row_noise import row_rand, row_randn
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_diffusability.metric import Channels
from vtp_plugins.evaluate_frechet.metric import kernel_distance
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_reconstruction.color import mean_color
from vtp_plugins.evaluate_reconstruction.metric import psnr

CLEAN, FLAT = "as it is", "mean colour"
PARTS = 20
"""Parts of the images that the jackknife of the kernel distance leaves out in turn."""
ROWS = 32
"""Images that are decoded at once."""

Perturb = Callable[[Tensor, Tensor], Tensor]
"""(chosen rows (b,) of the sample, their seeds) -> perturbed latents (b, d, h, w)."""


@torch.no_grad()
def decodes(
    model: Tokenizer, latents: Tensor, seeds: Tensor, perturbations: Mapping[str, Perturb]
) -> Iterator[dict[str, Tensor]]:
    """Decoded images (b, 3, H, W) uint8 of some latents at a time: by perturbation, `CLEAN` and `FLAT`.

    Args:
        model: A tokenizer that decodes.
        latents: (I, d, h, w), on the CPU.
        seeds: (I,) int64.
        perturbations: By name.

    Yields:
        `CLEAN`: of the latents themselves; `FLAT`: each of those images' own mean colour; the perturbed ones.
    """

    def shown(latent: Tensor) -> Tensor:
        return to_uint8(model.decode(latent.to(model.device, model.dtype)).sample, "imagenet")

    for rows in torch.arange(len(latents)).split(ROWS):
        clean = shown(latents[rows])
        perturbed = {name: shown(perturb(rows, seeds[rows])) for name, perturb in perturbations.items()}
        yield {CLEAN: clean, FLAT: mean_color(clean).expand_as(clean), **perturbed}


class Comparison:
    """Distances of decodes to the clean ones: PSNR of each image and, on a network, of the whole set.

    Args:
        network: Whose pooled features are compared; None: no kernel distance.
    """

    def __init__(self, network: PooledFeatures | None) -> None:
        self._network = network
        self._psnr: dict[str, list[Tensor]] = {}
        self._features: dict[str, list[Tensor]] = {}

    def add(self, images: Mapping[str, Tensor]) -> None:
        """Adds what `decodes` yields."""
        for name, image in images.items():
            self._psnr.setdefault(name, []).append(psnr(image, images[CLEAN]).cpu())
            if self._network is not None:
                self._features.setdefault(name, []).append(self._network(image).double().cpu())

    def scores(self, name: str) -> tuple[Score, Score | None]:
        """PSNR and kernel distance of a perturbation, against that of `FLAT`."""
        flat = torch.cat(self._psnr[FLAT])
        own = score_of(torch.cat(self._psnr[name]), {FLAT: flat})
        if self._network is None:
            return own, None
        rows = {key: torch.cat(self._features[key]) for key in (name, FLAT, CLEAN)}
        parts = torch.arange(len(flat)) % PARTS
        found, trivial = (
            kernel_distance(rows[key], rows[CLEAN], parts, parts, paired=True) for key in (name, FLAT)
        )
        baseline = Baseline(value=trivial.value, error=found.error_against(trivial))
        return own, Score(value=found.value, baselines={FLAT: baseline}, error=found.error)


def add_noise(latents: Tensor, channels: Channels, sigma: float, draw: int) -> Perturb:
    """Adds noise of `sigma` deviations of each channel."""

    def perturb(rows: Tensor, seeds: Tensor) -> Tensor:
        noise = row_randn(seeds, *latents.shape[1:], draw=draw, dtype=torch.float64)
        return latents[rows] + (sigma * channels.std[:, None, None] * noise).to(latents.dtype)

    return perturb


def replace_codes(
    model: Tokenizer, codes: Tensor, neighbours: Sequence[Tensor], fraction: float, draw: int
) -> Perturb:
    """Replaces each code with probability `fraction` by one of its nearest codes, drawn evenly.

    Source:
        Our reading of the abstract and second-hand accounts of arXiv 2509.12474 (RobusTok), whose method
        section we could not read: its perturbation of a share of an image's tokens by near codes.
    """

    def perturb(rows: Tensor, seeds: Tensor) -> Tensor:
        given = codes[rows]
        new = given.clone()
        for number, table in enumerate(neighbours):
            one = given[:, number]
            place = draw + 2 * number
            chosen = row_rand(seeds, *one.shape[1:], draw=place) < fraction
            if not table.shape[1]:  # the only code of its codebook
                continue
            pick = (row_rand(seeds, *one.shape[1:], draw=place + 1) * table.shape[1]).long()
            new[:, number] = torch.where(chosen, table[one, pick], one)
        return model.bottleneck.decode_codes(new.to(model.device))

    return perturb


def nearest_codes(model: Tokenizer, used: Tensor, most: int) -> list[Tensor]:
    """For each codebook (K, k) int64, the k nearest other codes of each used one; all K - 1 if fewer.

    A code's vector is the latent of one position where the other codebooks have code 0. Rows of codes that
    are not used are zero.

    Args:
        model: A tokenizer with codebooks.
        used: (I, Q, h, w) int64, the codes.
        most: k.
    """
    found = []
    sizes = model.bottleneck.codebook_sizes
    for number, size in enumerate(sizes):
        codes = torch.zeros(size, len(sizes), 1, 1, dtype=torch.int64, device=model.device)
        codes[:, number, 0, 0] = torch.arange(size, device=model.device)
        vectors = model.bottleneck.decode_codes(codes)[:, :, 0, 0].double().cpu()
        count = min(most, size - 1)
        table = torch.zeros(size, count, dtype=torch.int64)
        for rows in used[:, number].unique().split(256):
            # By differences: a common offset of the codes, and ties, give the same neighbours everywhere.
            distance = torch.cdist(vectors[rows], vectors, compute_mode="donot_use_mm_for_euclid_dist")
            distance[torch.arange(len(rows)), rows] = torch.inf
            table[rows] = distance.sort(stable=True).indices[:, :count]
        found.append(table)
    return found
