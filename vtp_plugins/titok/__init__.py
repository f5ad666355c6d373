"""TiTok: an image as a row of tokens (Yu et al. 2024, arXiv 2406.07550), and its published files."""
