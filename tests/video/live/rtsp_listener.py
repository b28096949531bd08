"""FFmpeg's RTSP server as a process of its own: accepts one publisher and prints its frames.

    python rtsp_listener.py PORT

Prints a line of JSON for each frame that arrives: its sides and the mean of red, green and blue.
"""

from __future__ import annotations

import json
import sys

import av

from mirnet_edge.video.files.decoding import RgbDecoder


def main() -> None:
    address = f"rtsp://127.0.0.1:{sys.argv[1]}/live"
    options = {"rtsp_flags": "listen", "listen_timeout": "60", "fflags": "nobuffer"}
    decoder = RgbDecoder()  # by the stream's matrix and range
    with av.open(address, options=options) as container:
        for frame in container.decode(video=0):
            means = decoder.pixels(frame).mean((0, 1)).tolist()
            line = {"width": frame.width, "height": frame.height, "rgb": means}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
