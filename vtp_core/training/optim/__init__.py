"""The update: owners, clipping, optimisers, EMA copies, the guard, critics."""
