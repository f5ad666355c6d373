"""Tests. A regular package, since torch-fidelity installs one of the same name."""
