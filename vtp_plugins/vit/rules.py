"""Multipliers of learning rate and weight decay by parameter name."""

from __future__ import annotations

from vtp_core.parameters import ParamRule

UNDECAYED = ("*bias", "*norm*.weight", "*.gamma")
"""Parameters of a block that are exempt from weight decay, as in DINOv2."""


def decay_rules(depth: int, layer_decay: float, patch_embed_lr: float) -> list[ParamRule]:
    """Rules of an encoder of `depth` blocks.

    Block i learns at ``layer_decay ** (depth - i)`` of the rate, patch embedding and tokens at
    ``layer_decay ** (depth + 1)``, the final norm at the whole rate (DINOv2).
    """
    lowest = layer_decay ** (depth + 1)
    rules = [
        ParamRule(pattern="cls_token", lr=lowest, decay=0.0),
        ParamRule(pattern="mask_token", lr=lowest, decay=0.0),
        ParamRule(pattern="patch_embed.*bias", lr=lowest * patch_embed_lr, decay=0.0),
        ParamRule(pattern="patch_embed.*", lr=lowest * patch_embed_lr),
    ]
    if layer_decay != 1.0:
        for index in range(depth):
            lr = layer_decay ** (depth - index)
            rules += [ParamRule(pattern=f"block.{index}.{name}", lr=lr, decay=0.0) for name in UNDECAYED]
            rules.append(ParamRule(pattern=f"block.{index}.*", lr=lr))
    return rules + undecayed_rules()


def undecayed_rules() -> list[ParamRule]:
    """No weight decay of biases, norms and scales."""
    return [ParamRule(pattern=name, decay=0.0) for name in UNDECAYED]
