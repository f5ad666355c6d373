"""UniTok: a tokenizer of many small codebooks (Ma et al. 2025, arXiv 2502.20321), and its published file."""
