"""The processes of a run: launcher and ranks, stop signals, stalls, one holder of a folder."""
