"""Core operators: one contract and one torch reference each; faster implementations come from plugins."""

from vtp_core.ops.attention import attention_choice, vit_attention
from vtp_core.ops.attention_choice import AttentionCase, AttentionChoice, AttentionKernel, Rope
from vtp_core.ops.code_statistics import code_statistics
from vtp_core.ops.nearest_code import nearest_code, search_choice
from vtp_core.ops.nearest_code_choice import SearchCase, SearchChoice, SearchKernel
from vtp_core.ops.quantize import rotation_trick, straight_through
from vtp_core.ops.ranking import MeasuredCase, Ranking
from vtp_core.ops.resampling import (
    resample_grid,
    resample_patch_embedding,
    resample_pixels,
    resample_positions,
)

__all__ = [
    "AttentionCase",
    "AttentionChoice",
    "AttentionKernel",
    "MeasuredCase",
    "Ranking",
    "Rope",
    "SearchCase",
    "SearchChoice",
    "SearchKernel",
    "attention_choice",
    "code_statistics",
    "nearest_code",
    "resample_grid",
    "resample_patch_embedding",
    "resample_pixels",
    "resample_positions",
    "rotation_trick",
    "search_choice",
    "straight_through",
    "vit_attention",
]
