"""One file a case; each has `build() -> Case`."""
