"""Core operators: one contract and one torch reference each; faster implementations come from plugins."""

from vtp_core.ops.attention import attention_choice, vit_attention
from vtp_core.ops.attention_choice import AttentionCase, AttentionChoice, AttentionKernel, Rope

__all__ = ["AttentionCase", "AttentionChoice", "AttentionKernel", "Rope", "attention_choice", "vit_attention"]
