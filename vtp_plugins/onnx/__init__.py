"""Programs for other runtimes: the calls of a tokenizer in ONNX and as files of ``torch.export``."""
