"""Training: the joint step (read `joint.py` first), the run round it, and what keeps both safe."""
