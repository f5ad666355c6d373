"""The forwards of a step: cut points, the verbs that objectives call, seeds, adaptive weights."""
