"""A run: set-up or resume, the training loop, its folder, artefact and report."""
