"""Checkpoints: folders, manifests, the restricted reader."""
