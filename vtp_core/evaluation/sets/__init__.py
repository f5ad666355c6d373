"""The samples that an evaluation reads: which ones, how they are cut, how their labels are matched."""
