"""The cases of `vtp bench`, one file each: `SHAPES`, `FORMAT` and `build(shape, options) -> BenchCase`."""
