"""`vtp plan`: what a recipe would run, its memory and FLOPs, measured without data, weights or devices.

A real joint step of a few rows runs on the CPU, with networks of the recipe's width but of depth 1 and 2
(`probe`); its costs are recorded by forward (`meter`) and scaled to the recipe's depths and rows
(`scale`). Parameters are counted on the networks in full, without memory (`sizes`).
"""
