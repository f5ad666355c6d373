"""Folders of latents: encoding a source into one, reading it, and the layouts of its files."""
