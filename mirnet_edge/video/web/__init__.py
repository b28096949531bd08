"""Live video on a web page: before and after in any browser, on this machine or on another.

    Live ─ WebSink.show ─► FrameBuffer ─┬─► Broadcast (VP8)  ─► Peer, one per viewer    WebRTC
                                        ├─► Broadcast (JPEG) ─► one response each       MJPEG
                                        └─► ViewerSession, one per viewer      status, controls

Each stream is encoded once for all viewers. A viewer that is too slow loses frames and delays no
other. No frame is stored, and frames are sent to the viewers only.
"""
