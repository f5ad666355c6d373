"""The table of several tokenizers: their numbers under one protocol, sizes, speeds and licenses."""
