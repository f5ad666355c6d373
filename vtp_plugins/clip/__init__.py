"""Image-text contrast with a text tower of its own."""
