"""The source `samples`: a few drawings that ship with the package."""
