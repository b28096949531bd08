"""Training of the diagnosis network: samples, loop and report."""
