"""Webdataset tar shards and their index; shared by the sources that read them."""
