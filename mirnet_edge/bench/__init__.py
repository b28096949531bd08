"""Measuring: what a network is held against."""
