"""A small RTSP server, to be run as a process of its own: H.264 in RTP, interleaved over TCP.

    python rtsp_server.py PORT [--silent-after FRAMES]

Prints its port once it listens. It supports the RTSP requests (RFC 2326) of live players;
transport over UDP is refused with 461, as a camera behind a firewall does. Frames are 64x48 grays
of 40, 80, 120, 160 and 200 in turn, each a key frame, packed by RFC 6184.
"""

from __future__ import annotations

import argparse
import base64
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np

GRAYS, FPS = (40, 80, 120, 160, 200), 25
_LARGEST = 1200  # bytes of a packet, so that frames are split as those of real cameras
_PAYLOAD_TYPE = 96


def coded() -> list[list[bytes]]:
    """Return the NAL units of each frame, without start codes."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = 48, 64, "yuv420p"
    encoder.time_base = Fraction(1, FPS)
    encoder.options = {"tune": "zerolatency", "g": "1", "qp": "4"}
    noise = np.random.default_rng(0).integers(-20, 21, (48, 64, 1))
    units = []
    for index, gray in enumerate(GRAYS):
        pixels = np.broadcast_to(gray + noise, (48, 64, 3)).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = index
        (packet,) = encoder.encode(frame)
        whole = bytes(packet).replace(b"\0\0\0\1", b"\0\0\1")
        units.append([unit for unit in whole.split(b"\0\0\1") if unit])
    return units


def payloads(unit: bytes) -> list[bytes]:
    """Return a NAL unit as RTP payloads: itself, or in fragments (FU-A)."""
    if len(unit) <= _LARGEST:
        return [unit]
    indicator, kind, body = unit[0] & 0xE0 | 28, unit[0] & 0x1F, unit[1:]
    starts = range(0, len(body), _LARGEST)
    return [
        bytes([indicator, (start == 0) << 7 | (start == starts[-1]) << 6 | kind])
        + body[start : start + _LARGEST]
        for start in starts
    ]


class Client:
    """One connection: requests on one thread, frames on another."""

    def __init__(self, connection, units, silent_after):
        self._connection, self._units = connection, units
        self._silent_after = silent_after
        self._sending = threading.Lock()
        self._gone = threading.Event()
        self._sequence = 0

    def serve(self):
        """Answer until the player leaves."""
        with suppress(OSError), self._connection, self._connection.makefile("rb") as lines:
            while self._answer(lines):
                pass
        self._gone.set()

    def _answer(self, lines):
        first = lines.read(1)
        if first == b"$":  # a receiver's report
            _, size = struct.unpack(">BH", lines.read(3))
            lines.read(size)
            return True
        request = (first + lines.readline()).decode().split()
        if not request:
            return False
        fields = {}
        while line := lines.readline().decode().strip():
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        method, url = request[0], request[1]
        status, more, body = "200 OK", "Session: 1\r\n", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"
        elif method == "DESCRIBE":
            more, body = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\n", self._sdp()
        elif method == "SETUP":
            if "TCP" in fields.get("transport", ""):
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            else:
                status = "461 Unsupported Transport"
        self._send(
            f"RTSP/1.0 {status}\r\nCSeq: {fields.get('cseq', 0)}\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        if method == "PLAY":
            threading.Thread(target=self._play, daemon=True).start()
        return method != "TEARDOWN"

    def _sdp(self):
        sets = ",".join(
            base64.b64encode(unit).decode() for unit in self._units[0] if unit[0] & 31 in (7, 8)
        )
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
            f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}\r\na=rtpmap:{_PAYLOAD_TYPE} H264/90000\r\n"
            f"a=fmtp:{_PAYLOAD_TYPE} packetization-mode=1;sprop-parameter-sets={sets}\r\n"
            f"a=framerate:{FPS}\r\na=control:track0\r\n"
        )

    def _play(self):
        index, start_s = 0, time.monotonic()
        while not self._gone.wait(max(0.0, start_s + index / FPS - time.monotonic())):
            if index == self._silent_after:
                return  # connected, and silent
            units = self._units[index % len(self._units)]
            parts = [part for unit in units for part in payloads(unit)]
            for place, part in enumerate(parts):
                kind = (place == len(parts) - 1) << 7 | _PAYLOAD_TYPE
                stamp = round(90_000 * index / FPS)
                head = struct.pack(">BBHII", 0x80, kind, self._sequence & 0xFFFF, stamp, 1)
                self._sequence += 1
                self._send(struct.pack(">cBH", b"$", 0, len(head) + len(part)) + head + part)
            index += 1

    def _send(self, what):
        with self._sending, suppress(OSError):  # the reading side sees that the player hung up
            self._connection.sendall(what)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, help="0 takes any")
    parser.add_argument("--silent-after", type=int, default=-1)
    arguments = parser.parse_args()
    units = coded()
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(connection, units, arguments.silent_after)
            threading.Thread(target=client.serve, daemon=True).start()


if __name__ == "__main__":
    main()
