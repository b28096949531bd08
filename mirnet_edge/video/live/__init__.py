"""Live video: sources, the latest-frame pipeline, sinks.

    Source ─ capture thread ─► latest-frame buffer ─ Live (main thread) ─► Restorer ─► Sinks

There is no queue: a frame that arrives while another is restored replaces the waiting one.
"""
