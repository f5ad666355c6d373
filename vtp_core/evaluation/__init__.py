"""Evaluation of a frozen tokenizer: evaluators, the protocol of every number, the runner."""
