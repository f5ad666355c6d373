"""Several processes: collectives, sharding, reduced tallies, equality of replicas."""
