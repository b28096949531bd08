"""Running a bundle: open it, restore frames and files, measure. Only the torch runner needs torch.

    bundle ─ bundle.open_bundle ─► Runner ─ restore.restore_files ─► pictures
                                          └ measure.measure_interleaved ─► milliseconds

One module per backend; what they share is in `runner`.
"""
