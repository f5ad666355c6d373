"""The parts of `make gpu`: `SUMMARY`, `LIMIT` in seconds and `run(context)` each. They import no torch."""
