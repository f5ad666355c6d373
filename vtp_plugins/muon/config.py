"""The recipe table of Muon. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.recipe.tables.optimizer import AdamWConfig, Beta
from vtp_core.schedule import NotNegative


class MuonConfig(AdamWConfig):
    """Muon for the matrices of blocks; embeddings, heads, norms, biases and convolutions are AdamW's.

    `lr`, `betas` and `eps` are AdamW's; weight decay, clipping, owners and rules hold for both.
    """

    moves_shards: ClassVar[bool] = False

    use: str = "muon"
    """Names this algorithm."""
    matrix_lr: NotNegative | None = None
    """Learning rate of the matrices, a number or a schedule; default: `lr`, as `match_rms_adamw` allows."""
    scaling: Literal["match_rms_adamw", "original", "spectral_unclamped"] = "match_rms_adamw"
    """Factor on the learning rate of an A x B matrix: 0.2 sqrt(max(A, B)), so that updates have AdamW's size
    and its learning rate fits (Liu et al., arXiv 2502.16982, section 2.2); sqrt(max(1, A / B)) (Jordan 2024);
    sqrt(A / B) (Bernstein 2025)."""
    momentum: Beta = 0.95
    """Decay rate of the momentum (Jordan 2024)."""
    nesterov: bool = True
    """Whether the update looks one step ahead."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz steps of the orthogonalisation, in bfloat16."""

    @model_validator(mode="after")
    def _own_rate(self) -> Self:
        if self.matrix_lr is None and self.scaling != "match_rms_adamw":
            raise ValueError(
                f'scaling = "{self.scaling}" needs a learning rate of its own; set matrix_lr, such as 0.02'
            )
        return self
