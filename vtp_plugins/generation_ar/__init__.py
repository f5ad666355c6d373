"""Objective `generation_ar`: an autoregressive transformer on the codes of a frozen tokenizer."""
