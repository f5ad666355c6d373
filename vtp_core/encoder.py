"""The encoder interface: images to tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.parameters import ParamRule, Resampler


class Encoder(nn.Module):
    """Turns images into tokens. Constructed as ``Encoder(config)``.

    `forward` changes no state: activation checkpointing and row chunks run it twice. Randomness (drop path)
    comes from torch's global generator, which the core seeds for every forward.

    Attributes:
        width: Token width D.
        patch: Patch side in pixels.
        depth: Number of blocks.
        taps: Blocks that can be tapped are 0 .. taps - 1; None: all `depth`.
        tap_widths: Widths of their tokens; empty: all `width`. Taps are on the grid of the patches.
        has_cls: Whether there is a class token.
        table: The table that it was built from; the core sets it.
        has_intermediate: Whether `intermediate` gives the tokens of single blocks.
        has_strips: Whether it can run on strips of its maps, with the same result up to rounding.
        strip_rows: Rows of a strip, set by `Tokenizer.enable_tiling`; None: whole maps.
        only_size: Height and width of the only images that it takes; None: all multiples of `patch`.
    """

    width: int
    patch: int
    depth: int
    has_cls: bool
    taps: int | None = None
    tap_widths: tuple[int, ...] = ()
    table: ComponentConfig | None = None
    has_intermediate: bool = False
    only_size: tuple[int, int] | None = None
    has_strips: bool = False
    strip_rows: int | None = None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of images of `height` x `width` pixels.

        An encoder whose tokens have no places in the image returns (1, number of tokens).
        """
        return height // self.patch, width // self.patch

    @property
    def tappable(self) -> int:
        """Number of blocks that can be tapped."""
        return self.depth if self.taps is None else self.taps

    def check_layers(self, layers: Iterable[int], what: str) -> None:
        """Refuses taps that this encoder lacks.

        Args:
            layers: Blocks to tap.
            what: Who asks for them.

        Raises:
            UsageError: One of them can't be tapped.
        """
        taps = self.tappable
        if outside := sorted({layer for layer in layers if not 0 <= layer < taps}):
            can = f"blocks 0 .. {taps - 1} can be tapped" if taps else "none of its blocks can be tapped"
            raise UsageError(f"{what} taps block {outside[0]} of the encoder, which has {self.depth}: {can}")

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """Tokens of all crop sets of some rows, in one packed pass where the encoder can.

        Args:
            images: One tensor per crop set, (B, C, 3, H, W) float, ImageNet-normalised; H and W are multiples
                of `patch` and may differ between sets, unless there is an `only_size`.
            masks: One entry per crop set: (B, C, N) bool, True = replaced by the mask token, or None.
            layers: Blocks to tap.
            drop_path: Probability in [0, 1) of dropping a residual branch of a row in training.

        Returns:
            One `Tokens` a crop set, after the final norm; taps before it.
        """
        raise NotImplementedError

    def intermediate(
        self, images: Tensor, layers: tuple[int, ...], *, normed: bool = False
    ) -> Mapping[int, Tensor]:
        """Output of single blocks with the class token, for probes; on an unsharded encoder.

        Args:
            images: (B, 3, H, W), ImageNet-normalised.
            layers: Blocks wanted, 0-based.
            normed: Whether the final norm is applied to each.

        Returns:
            Block -> (B, 1 + N, D) with the class token first, or (B, N, D) without one.

        Raises:
            UsageError: This encoder can't (`has_intermediate` is False).
        """
        raise UsageError(f"{type(self).__name__} gives no tokens of single blocks")

    def blocks(self) -> Sequence[nn.Module]:
        """Units of sharding, compiling, checkpointing and layer decay, in order."""
        return ()

    def rules(self) -> Sequence[ParamRule]:
        """Multipliers by parameter name; the first pattern that matches holds."""
        return ()

    def notices(self) -> Sequence[str]:
        """Where pretrained weights come from and their license: lines for the log, the artefact, its card."""
        return ()

    def resamplers(self) -> Mapping[str, Resampler]:
        """Name of a parameter -> what fits one of another size, where ``init_from.resample`` asks for it."""
        return {}
