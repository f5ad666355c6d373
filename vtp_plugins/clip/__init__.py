"""Image-text contrast with its own text tower."""
