"""VTP-Nano: a small tokenizer that ships with the package."""
