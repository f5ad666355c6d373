"""What an update does: owners, clipping, the optimiser, EMA copies, the guard, critics."""
