"""Crops, augmentations and masks of an image."""
