"""`vtp kernels tune`: which implementations agree and how fast they are on a device; its results."""
