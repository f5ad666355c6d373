"""What a tokenizer is, in ten lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vtp_core.view import sides

if TYPE_CHECKING:
    from vtp_core.tokenizer.model import Tokenizer


def summary(tokenizer: Tokenizer) -> str:
    """At most ten lines: origin, images, latent, networks with their parameters, exports and place."""
    config, patch = tokenizer.config, tokenizer.encoder.patch
    sizes = tokenizer.bottleneck.codebook_sizes
    shape = f"{tokenizer.latent_channels} x h x w"
    lines = []
    if config is not None:
        step = "" if config.step is None else f", step {config.step}"
        height, width = sides(config.image_size)
        rows, columns = tokenizer.encoder.grid(height, width)
        shape = f"{tokenizer.latent_channels} x {rows} x {columns}"
        others = (
            f"other sizes in multiples of {patch}" if tokenizer.encoder.only_size is None else "no others"
        )
        lines += [
            f"recipe: {config.recipe or 'none'}{step}, {config.weights} weights",
            f"images: {height} x {width} pixels, {others}",
        ]
    codes = f"codes {' x '.join(map(str, sizes))}" if sizes else "continuous"
    lines.append(f"latent: {shape}, {codes}")
    for name in ("encoder", "bottleneck", "decoder"):
        table = None if config is None else getattr(config, name)
        lines.append(f"{name}: {_network(getattr(tokenizer, name), table)}")
    lines.append(f"exports: {', '.join(sorted(tokenizer.exports)) or 'none'}")
    lines.append(f"device: {tokenizer.device}, dtype: {str(tokenizer.dtype).removeprefix('torch.')}")
    return "\n".join((f"{type(tokenizer).__name__}(", *(f"  {line}" for line in lines), ")"))


def _network(module: nn.Module | None, table: dict[str, object] | None) -> str:
    if module is None:
        return "none"
    name = type(module).__name__ if table is None else table.get("use", type(module).__name__)
    return f"{name}, {sum(p.numel() for p in module.parameters()):,} parameters"
