"""Structured pruning by measured latency."""
