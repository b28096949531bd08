"""Calibration sets: which pictures set the INT8 ranges, and which judge the result."""
