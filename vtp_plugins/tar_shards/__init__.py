"""Tar shards and their index, for sources that read them."""
