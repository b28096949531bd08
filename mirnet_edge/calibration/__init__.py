"""Calibration sets: the images that set INT8 ranges, and those that the quality gate uses."""
