"""The parts of `make gpu`. They import no torch.

Each has `SUMMARY`; `LIMIT`, seconds after which it is ended; `KEPT`, seconds that are kept for it while the
parts before it run; and `run(context)`, which returns lines of markdown.
"""
