"""Live video and video files: sources, the newest-frame pipeline, sinks.

    Source ─ capture thread ─► Mailbox ─ Live (main thread) ─► Restorer ─► Sinks

Live never queues: a frame that comes while another is restored replaces the one that waits. Files
never drop: `restoring.restore_video` takes every frame in turn.
"""
