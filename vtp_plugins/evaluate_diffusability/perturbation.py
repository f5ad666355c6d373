"""Decodes of perturbed latents and codes, compared with the decode without perturbation by their PSNR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vtp_core.math.row_noise import row_rand, row_randn
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_diffusability.metric import Channels
from vtp_plugins.evaluate_reconstruction.color import mean_color
from vtp_plugins.evaluate_reconstruction.metric import psnr

ROWS = 32
"""Images that are decoded at once."""

Perturb = Callable[[Tensor, Tensor], Tensor]
"""(chosen rows (b,) of the sample, their seeds) -> perturbed latents (b, d, h, w)."""


def decoded_distances(
    model: Tokenizer, latents: Tensor, seeds: Tensor, perturbations: Sequence[Perturb]
) -> Tensor:
    """(I, 1 + P) float64, PSNR in dB of each perturbed decode against the decode without it.

    The first column is the trivial decode: each image's own mean colour.

    Args:
        model: A tokenizer that decodes.
        latents: (I, d, h, w), on the CPU.
        seeds: (I,) int64.
        perturbations: P of them.
    """

    def shown(latent: Tensor) -> Tensor:
        return to_uint8(model.decode(latent.to(model.device, model.dtype)).sample, "imagenet")

    found = []
    for rows in torch.arange(len(latents)).split(ROWS):
        clean = shown(latents[rows])
        columns = [psnr(mean_color(clean), clean)]
        columns += [psnr(shown(perturb(rows, seeds[rows])), clean) for perturb in perturbations]
        found.append(torch.stack(columns, 1).cpu())
    return torch.cat(found)


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
            distance = torch.cdist(vectors[rows], vectors)
            distance[torch.arange(len(rows)), rows] = torch.inf
            table[rows] = distance.topk(count, largest=False).indices
        found.append(table)
    return found
