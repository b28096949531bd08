"""Run a bundle: open it, restore frames and files, measure latency.

Only `torch_runner` needs torch.

    bundle ─ bundle.open_bundle ─► Runner ─ restore.restore_files ─► images
                                          └ measure.measure_interleaved ─► milliseconds

One module for each backend; what they share is in `runner`.
"""
