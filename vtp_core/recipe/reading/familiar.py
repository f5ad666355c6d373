"""Keys of other frameworks, and keys in the wrong table: where a recipe has them. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import BaseModel

from vtp_core.recipe.problems import closest, did_you_mean
from vtp_core.recipe.tables.recipe import Recipe

_PLACES: Mapping[str, str] = {
    'run.precision = "bfloat16"': "bf16 fp16 amp dtype mixed_precision autocast",
    "run.steps (of the optimizer)": "epochs num_epochs max_epochs max_steps num_steps max_iters",
    "run.out": "out_dir output_dir output save_dir log_dir workdir",
    "run.checkpoint_every": "save_every save_steps save_interval save_freq ckpt_every",
    "run.microbatch_rows": "micro_batch_size accumulate_grad_batches gradient_accumulation_steps grad_accum",
    "views.NAME.rows": "batch_size global_batch_size train_batch_size batch",
    "views.NAME.size": "image_size img_size input_size resolution crop_size",
    "views.NAME.augment": "augmentation augmentations transform transforms",
    "data.source": "dataset data_path data_dir data_root train_data",
    "optimizer.lr": "learning_rate base_lr",
    'optimizer.lr = { kind = "cosine", start = 1e-3, end = 1e-5, warmup = 100 }': (
        "warmup warmup_steps min_lr scheduler lr_scheduler lr_schedule"
    ),
    "optimizer.clip": "grad_clip clip_grad gradient_clip max_grad_norm gradient_clip_val",
    "ema.momentum": "ema_decay decay",
    'parallel.compile = "block"': "torch_compile",
    'parallel.activation_checkpoint = "block"': "grad_checkpointing gradient_checkpointing use_checkpoint",
    "parallel.shard": "fsdp ddp zero",
    "vtp run --nproc N": "gpus num_gpus devices nproc nnodes",
    "vtp run --resume, or init_from": "resume resume_from ckpt ckpt_path checkpoint load_from pretrained",
    "evaluate.every": "eval_every eval_steps eval_interval val_every val_check_interval",
    "evaluate.source": "val_data eval_data validation",
    "bottleneck.channels": "latent_dim latent_channels z_channels z_dim",
    "width": "dim embed_dim hidden_size hidden_dim",
    "depth": "num_layers n_layers num_blocks",
    "[callbacks.NAME], see `vtp plugins list --kind callback`": "logger logging log_to",
}
"""What a recipe has -> what other frameworks call it."""

NO_SWITCH: Mapping[str, str] = {
    "ema": "averages are kept where an objective asks for a teacher, and of ema.networks",
}
"""Tables that look like switches -> what decides instead."""


def advice(name: str, known: Collection[str]) -> str:
    """What to do about an unknown key.

    Args:
        name: The key.
        known: The keys of its table.
    """
    for place, names in _PLACES.items():
        if name.casefold().replace("-", "_") in names.split():
            return f"use {place}"
    if name in NO_SWITCH or name in dict(_tables()):
        return f"it is a table of its own: [{name}]"
    if closest(name, known) is None and (tables := [table for table, keys in _tables() if name in keys]):
        return f"it is a key of {' and '.join(f'[{table}]' for table in tables)}"
    return did_you_mean(name, known)


def _tables() -> Iterator[tuple[str, Collection[str]]]:
    """The recipe's own tables and their keys."""
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation.model_fields.keys()
