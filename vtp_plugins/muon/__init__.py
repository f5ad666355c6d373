"""Muon: matrices of blocks are moved along their orthogonalised momentum, everything else by AdamW."""
