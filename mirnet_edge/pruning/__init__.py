"""Pruning by measured latency: what can be narrower, what that wins here, what it costs."""
