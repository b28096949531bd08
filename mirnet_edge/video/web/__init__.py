"""Live video on a page: before and after in any browser, on this machine or on another.

    Live ─ WebSink.show ─► Board ─┬─► Broadcast (VP8)  ─► Peer, one per viewer   WebRTC
                                  ├─► Broadcast (JPEG) ─► one response each      the fallback
                                  └─► Session, one per viewer                    figures, buttons

Each stream is encoded once for all who watch it. A viewer who is too slow loses frames and slows
nobody. No frame is stored, and none goes anywhere but to the viewers.
"""
