"""Benchmarks: latency, quality, energy and memory of networks, and their reports."""
