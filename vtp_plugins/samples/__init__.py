"""The source `samples`: drawings in this package."""
