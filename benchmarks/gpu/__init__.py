"""`make gpu`: builds, tests and measures on one NVIDIA GPU in five minutes, without a network.

The process that leads imports no torch: each part runs commands of the framework with a time limit, so that
a kernel that hangs or ends its process costs its part alone. One file a part in `parts/`.
"""
