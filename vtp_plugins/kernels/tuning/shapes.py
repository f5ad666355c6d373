"""The shapes at which implementations are measured: those of the shipped recipes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

CPU_SHARE = 16
"""A CPU is given a 16th of the sequences or vectors: the same work takes it much longer."""


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Attention as a vision transformer calls it.

    Attributes:
        dtype: Of queries, keys and values.
        rope: Dtype of the rotary tables; None: neither query and key norm nor rotation.
        runs: Sequences and their tokens; several lengths are packed into one call.
        heads: Attention heads.
        width: Channels of a head.
    """

    dtype: str
    rope: str | None
    runs: tuple[tuple[int, int], ...]
    heads: int = 6
    width: int = 64

    def __str__(self) -> str:
        runs = " + ".join(f"{count} x {tokens}" for count, tokens in self.runs)
        dressed = "plain" if self.rope is None else f"norm and {self.rope} rotation"
        return f"{self.dtype}, {dressed}, {runs} tokens, {self.heads} x {self.width} channels"


@dataclass(frozen=True, kw_only=True)
class SearchShape:
    """A search of the nearest code.

    Attributes:
        dtype: Of vectors and codebook.
        codes: Codes K.
        width: Channels D.
        rows: Vectors N.
    """

    dtype: str
    codes: int
    width: int
    rows: int = 16384

    def __str__(self) -> str:
        return f"{self.dtype}, {self.rows} vectors, {self.codes} codes of {self.width} channels"


Shape = AttentionShape | SearchShape

VTP = ((64, 257),)
"""Images of 256 pixels in patches of 16, and a class token."""
VTP_CROPS = ((64, 257), (256, 50))
"""Two global crops of 256 pixels and eight local ones of 112, of 32 samples."""
QUICKSTART = ((64, 65),)
"""Images of 64 pixels in patches of 8."""
QUICKSTART_CROPS = ((32, 65), (32, 17))

SHAPES: tuple[Shape, ...] = (
    AttentionShape(dtype="bfloat16", rope="bfloat16", runs=VTP),
    AttentionShape(dtype="bfloat16", rope="bfloat16", runs=VTP_CROPS),
    AttentionShape(dtype="float32", rope="bfloat16", runs=VTP),  # evaluated without autocast
    AttentionShape(dtype="bfloat16", rope="float32", runs=QUICKSTART, heads=3),
    AttentionShape(dtype="bfloat16", rope="float32", runs=QUICKSTART_CROPS, heads=3),
    AttentionShape(dtype="float32", rope="float32", runs=QUICKSTART, heads=3),
    AttentionShape(dtype="float32", rope="float32", runs=QUICKSTART_CROPS, heads=3),
    AttentionShape(dtype="bfloat16", rope=None, runs=VTP),
    # Codebooks of published tokenizers.
    SearchShape(dtype="float32", codes=1024, width=64),
    SearchShape(dtype="float32", codes=8192, width=8),
    SearchShape(dtype="float32", codes=8192, width=32),
    SearchShape(dtype="float32", codes=16384, width=64),
    SearchShape(dtype="float32", codes=16384, width=256),
    SearchShape(dtype="float32", codes=65536, width=8),
    SearchShape(dtype="bfloat16", codes=8192, width=8),
    SearchShape(dtype="bfloat16", codes=16384, width=64),
    # Decoders on features of frozen encoders: DINO-Tok's, and RAE's of width 1152.
    AttentionShape(dtype="bfloat16", rope="float32", runs=((64, 256),), heads=16),
    AttentionShape(dtype="bfloat16", rope="float32", runs=((64, 256),), heads=16, width=72),
)
