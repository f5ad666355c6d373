"""Checkpoints: writing, folders, manifests, a restricted reader."""
