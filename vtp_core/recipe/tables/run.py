"""``[run]``, ``[parallel]``, ``[kernels]``, ``[evaluate]``: how a run goes. Imports no torch."""

from __future__ import annotations

import re
from os.path import expanduser
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, field_validator

from vtp_core.config import ComponentConfig, Table
from vtp_core.recipe.tables.slot import Slot

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
"""Names of devices in a recipe."""


class RunConfig(Table):
    """Length, precision, output and safety of a run."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random: initial weights, order of the data, augmentation, masks, drop path."""
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    """`auto` takes CUDA if a device is present, else the CPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which the networks compute (autocast); losses, norms and the weights stay float32. `bf16` and
    `fp32` are understood."""
    out: Annotated[str, Field(min_length=1)] = "runs/<name>"
    """Folder of the run; `<name>` stands for the recipe's name."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between lines of `metrics.jsonl`."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints to keep, besides the newest one with finite values."""
    microbatch_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of a rank that go through a network at once; default: all. Changes memory use, not gradients."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 5
    """Consecutive steps that may be skipped for a non-finite loss or gradient before the run stops."""
    stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without progress after which a run says where its ranks stand; after a stop signal, those after
    which one that is stuck ends without having saved the step."""
    deterministic: bool = False
    """Whether only deterministic algorithms are allowed."""
    audit_gradients: bool = True
    """Whether a trainable parameter without a gradient at its owner's first active step is an error."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of each rank; default: torch's choice."""

    @field_validator("precision", mode="before")
    @classmethod
    def _short_precision(cls, given: object) -> object:
        if given in ("fp16", "float16", "half"):
            raise ValueError("float16 needs loss scaling, which a run does not have; use bfloat16")
        names = {"bf16": "bfloat16", "fp32": "float32"}
        return names.get(given, given) if isinstance(given, str) else given

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, given: object) -> object:
        if isinstance(given, str) and not re.fullmatch(DEVICE, given):
            raise ValueError(f'expected "auto", "cpu", "cuda" or "cuda:1", got the string "{given}"')
        return given

    @field_validator("out")
    @classmethod
    def _check_out(cls, out: str) -> str:
        if out.startswith("~"):
            raise ValueError(
                f"~ is not expanded; write {expanduser(out)}, or ./{out} for a folder of that name"
            )
        return out


class ParallelConfig(Table):
    """Spread over devices."""

    world_size: Annotated[int, Field(ge=1)] | None = None
    """Ranks for `vtp plan` and `vtp validate`; `--world-size` overrides it. A run uses its own number."""
    shard: Annotated[int, Field(ge=1)] = 1
    """Ranks over which one copy of the parameters is sharded (FSDP2); 1 replicates them."""
    activation_checkpoint: Literal["none", "block"] = "none"
    """`block` recomputes each block in the backward pass instead of keeping its activations; true and false
    stand for `block` and `none`."""
    compile: Literal["none", "block"] = "none"
    """`block` compiles each block with torch.compile; true and false stand for `block` and `none`."""

    @field_validator("activation_checkpoint", "compile", mode="before")
    @classmethod
    def _switch(cls, given: object) -> object:
        return {True: "block", False: "none"}[given] if isinstance(given, bool) else given


class KernelsConfig(Table):
    """Implementations of the core's operations; `vtp kernels list` names them."""

    attention: str = "auto"
    """Attention of transformers; `auto` goes by instruction set on CPUs, by `vtp kernels tune` on GPUs."""
    nearest_code: str = "auto"
    """Search of the nearest code in a codebook; `auto` as for attention."""


class EvaluateConfig(Table):
    """When and on what the evaluators run."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations; 0: only at the end."""
    best: Annotated[str, Field(pattern=r"^[^.\s]+\.\S+$")] | None = None
    """`EVALUATOR.METRIC`: the checkpoint where it is best stays as `checkpoints/best`; needs `every`."""
    source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")] | None = None
    """Held-out samples; without it only evaluators that read no data run."""
    train_source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")] | None = None
    """Samples that probes learn from; default: `data.source`."""
    rows: Annotated[int, Field(ge=1)] = 64
    """Samples per batch."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Samples of each source that are used, spread evenly; default: all. Numbers of a part say so."""
    allow_incomplete: bool = False
    """Whether to measure what is left of a held-out source of which parts (shards, folders) can't be read;
    the protocol says so. By default it is an error before step 0."""
    statistics_samples: Annotated[int, Field(ge=0)] | None = None
    """Training samples for mean and deviation of the latents at the end of a run; 0: not measured. Default:
    10,000 on a GPU, 2,000 on a CPU, and at most `limit`."""
