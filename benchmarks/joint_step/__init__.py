"""One joint step of this framework against the same losses as three plain torch training steps.

`python -m benchmarks.joint_step` times both, rung by rung, and counts their memory.
"""
