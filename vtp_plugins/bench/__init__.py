"""Micro-benchmarks: our operators and tokenizers against every installed peer, measured side by side."""
