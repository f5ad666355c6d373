"""The source `webdataset`: tar shards with one group of files per sample."""
