"""Pixel losses between input and reconstruction: ``l1`` and ``l2``."""
