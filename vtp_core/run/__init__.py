"""The life of a run: opening, the loop, what it leaves behind."""
