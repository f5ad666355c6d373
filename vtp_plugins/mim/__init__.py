"""Masked image modelling against an EMA teacher."""
