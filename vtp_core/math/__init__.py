"""Moments of vectors, and random numbers by row."""
