"""``[run]``, ``[parallel]``, ``[kernels]``, ``[evaluate]``: how a run goes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from vtp_core.config import ComponentConfig, Table
from vtp_core.recipe.tables.slot import Slot


class RunConfig(Table):
    """Length, precision, output and safety of a run."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random: initial weights, order of the data, augmentation, masks, drop path."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` takes CUDA if there is a device, else the CPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type that the networks compute in (autocast); losses, norms and the weights themselves stay float32."""
    out: Annotated[str, Field(min_length=1)] = "runs/<name>"
    """Folder of the run; `<name>` stands for the recipe's name."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps from one line of `metrics.jsonl` to the next."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps from one checkpoint to the next; the last step is always saved."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints that are kept, beside the last known good one."""
    microbatch_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of a rank that go through a network at a time; default: all. Changes memory, not gradients."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 5
    """Steps in a row that may be skipped for a loss or gradient that is not finite, before the run stops."""
    deterministic: bool = False
    """Whether only deterministic algorithms are allowed."""
    audit_gradients: bool = True
    """Whether a trainable parameter without a gradient at its owner's first active step is an error."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of each rank; default: torch's choice."""


class ParallelConfig(Table):
    """Spread over devices."""

    world_size: Annotated[int, Field(ge=1)] | None = None
    """Ranks that the recipe is planned for; `--world-size` overrides it. A run counts its own."""
    shard: Annotated[int, Field(ge=1)] = 1
    """Ranks that share one copy of the parameters (FSDP2); 1 replicates them."""
    activation_checkpoint: Literal["none", "block"] = "none"
    """`block` computes each block again in the backward instead of keeping its activations."""
    compile: Literal["none", "block"] = "none"
    """`block` compiles each block with torch.compile."""


class KernelsConfig(Table):
    """Implementations of the core's operations; `vtp kernels list` names them."""

    attention: str = "auto"
    """Attention of transformers; `auto` takes the first whose needs hold."""
    nearest_code: str = "auto"
    """Search of the nearest code in a codebook; `auto` takes the first whose needs hold."""


class EvaluateConfig(Table):
    """When and on what the evaluators run."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps from one evaluation to the next; 0: only at the end."""
    source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")] | None = None
    """Held-out samples; without it nothing is evaluated."""
    train_source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")] | None = None
    """Samples that probes learn from; default: `data.source`."""
    rows: Annotated[int, Field(ge=1)] = 64
    """Samples a batch."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Samples of each source that are used, spread evenly; default: all. Numbers of a part say so."""
