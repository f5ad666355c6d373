"""Sets up a run before step 0: data, networks, initial weights, calibration."""
