"""Ranks: collectives, sharding, reduction of tallies, comparison of replicas."""
