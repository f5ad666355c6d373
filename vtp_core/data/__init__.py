"""From files to batches: sources, order, crops, masks and the loader."""
