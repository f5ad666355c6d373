"""Index backpropagation: all codes get a gradient through the softmax over them, in tiles of rows.

Source: Shi et al. 2024 (IBQ, arXiv 2412.02692), equations 3 to 7.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp_core.features import Tally
from vtp_core.ops import code_statistics, nearest_code
from vtp_plugins.vq.config import IbqConfig
from vtp_plugins.vq.learned import LearnedQuantizer
from vtp_plugins.vq.quantizer import Quantized, finite, mean_square, pick, wide

TILE = 1 << 22
"""Scores (rows x codes) that exist at once."""


class IbqQuantizer(LearnedQuantizer):
    """Codes by the largest product; the gradient is that of the softmax over all codes.

    The batch's entropy is taken against the mean probabilities of earlier steps (`mean`): then the term is a
    mean over rows, the same in any row chunks and on any number of ranks. It is our reading; the paper takes
    the batch's own.
    """

    config: IbqConfig
    mean: Tensor

    def make_codebook(self) -> None:
        """A trained table, and the mean probability of each code."""
        super().make_codebook()
        self.register_buffer("mean", torch.full((self.config.codes,), 1 / self.config.codes))

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim)."""
        with torch.autocast(x.device.type, enabled=False):
            x = wide(x)
            codebook = self.table.to(x.dtype)
            valid = finite(x)
            safe = torch.where(valid[:, None], x, 0)
            found = self.search(safe, codebook)
            codes = _IndexBackprop.apply(safe, codebook, found)
            index = torch.where(valid, found, -1)
            picked = pick(codebook, index)
            error = mean_square(x.detach() - picked, valid)
            aux = {
                "codebook": self.config.codebook * error,
                "commitment": self.config.commitment * mean_square(x - picked.detach(), valid),
            }
            mean_log = self.mean.to(x.dtype).clamp(min=1e-30).log()
            temperature = self.config.temperature
            entropy, total = _EntropyTerm.apply(safe, codebook, mean_log, temperature, valid)
            aux["entropy"] = self.config.entropy * entropy
            mine = {"probabilities": total, "rows": valid.sum().to(x.dtype)}
            return Quantized(
                vectors=torch.where(valid[:, None], codes, torch.nan),
                codes=index[:, None],
                aux=aux,
                tally=Tally(sums={**self.counted(index).sums, **mine}) if self.training else Tally(),
                report={"error": error.detach(), **self.meters.report()},
            )

    @torch.no_grad()
    def search(self, x: Tensor, codebook: Tensor) -> Tensor:
        """(N,) int64, the code (K, D) of the largest product with each vector (N, D); the first of ties.

        It is the nearest one if a further coordinate makes all codes equally long (Bachrach et al. 2014) and
        vectors are as long as they; in float64, so that this adds no rounding that counts.
        """
        wide = codebook.double()
        square = wide.square().sum(-1)
        longest = square.amax()
        lifted = torch.cat([wide, (longest - square).sqrt()[:, None]], -1)
        size = x.double().abs().amax(-1, keepdim=True)
        zero = size == 0  # all products are equal: the first code, without a search among ties
        vectors = torch.where(zero, wide[0], x / size * longest.sqrt())
        index = nearest_code(F.pad(vectors, (0, 1)), lifted, implementation=self._search)[0]
        return index.masked_fill(zero[:, 0], 0)

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the meters and the mean probabilities."""
        super().after_step(tally, index)
        step = tally.sums["probabilities"] / tally.sums["rows"].clamp(min=1)
        self.mean.lerp_(step.to(self.mean.dtype), 1 / self.config.window)


def _tiles(rows: int, codes: int) -> list[slice]:
    if torch.compiler.is_compiling():  # a loop would fix the number of rows
        return [slice(None)]
    size = max(TILE // codes, 1)
    return [slice(start, start + size) for start in range(0, rows, size)]


class _IndexBackprop(torch.autograd.Function):
    """The code of the largest product; backward through one-hot + softmax - stop_gradient(softmax)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codebook: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, codebook, index)
        return codebook[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, codebook, index = ctx.saved_tensors
        grad = grads[0]
        at_x, at_codes = torch.zeros_like(x), torch.zeros_like(codebook)
        for rows in _tiles(len(x), len(codebook)):
            p = (x[rows] @ codebook.T).softmax(-1)
            at_p = grad[rows] @ codebook.T
            at_score = p * (at_p - (p * at_p).sum(-1, keepdim=True))
            at_x[rows] = at_score @ codebook
            at_codes += at_score.T @ x[rows]
        at_codes += code_statistics(grad, index, len(codebook))[1].to(codebook.dtype)
        return at_x, at_codes, None


class _EntropyTerm(torch.autograd.Function):
    """Mean over rows of H(p) + sum p log(mean): certain of each row, even over codes; and the sum of p."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codebook: Tensor, mean_log: Tensor, temperature: float, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        value, total = x.new_zeros(()), codebook.new_zeros(len(codebook))
        for rows in _tiles(x.shape[0], len(codebook)):
            log_p = (x[rows] @ codebook.T / temperature).log_softmax(-1)
            p = log_p.exp() * valid[rows, None]
            value = value + (p * (mean_log - log_p)).sum()
            total = total + p.sum(0)
        ctx.save_for_backward(x, codebook, mean_log, valid)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(total)
        return value / valid.sum().clamp(min=1), total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, codebook, mean_log, valid = ctx.saved_tensors
        scale = grads[0] / valid.sum().clamp(min=1) / ctx.temperature
        at_x, at_codes = torch.zeros_like(x), torch.zeros_like(codebook)
        for rows in _tiles(len(x), len(codebook)):
            log_p = (x[rows] @ codebook.T / ctx.temperature).log_softmax(-1)
            p = log_p.exp() * valid[rows, None]
            at_p = mean_log - log_p  # the derivative of -p log p leaves a constant that the softmax cancels
            at_score = p * (at_p - (p * at_p).sum(-1, keepdim=True)) * scale
            at_x[rows] = at_score @ codebook
            at_codes += at_score.T @ x[rows]
        return at_x, at_codes, None, None, None
