"""The core of a framework to pre-train, evaluate and hand over visual tokenizers."""
