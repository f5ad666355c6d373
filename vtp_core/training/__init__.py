"""Training: one joint step. Read `joint.py` first."""
