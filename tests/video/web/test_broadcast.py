from __future__ import annotations

import asyncio

import numpy as np
import pytest

from mirnet_edge.video.web.broadcast import (
    INDEX_LIMIT,
    STRIP_HEIGHT,
    Broadcast,
    EncodedFrame,
    FrameBuffer,
    JpegEncoder,
    QueueClosed,
    ViewerQueue,
    Vp8Encoder,
    read_index_strip,
    side_by_side,
)


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (49, 65), (480, 640), (720, 2560)])
@pytest.mark.parametrize("index", [0, 1, 123456, INDEX_LIMIT - 1])
def test_the_strip_holds_the_index_at_every_size(make_shown, size, index):
    image = side_by_side(make_shown(index, height=size[0], width=size[1]))
    assert read_index_strip(image) == index
    assert image.shape[0] % 2 == 0
    assert image.shape[1] % 4 == 0


def test_an_image_without_a_strip_has_no_index():
    assert read_index_strip(np.full((64, 320, 3), 255, np.uint8)) is None


def test_before_is_left_and_after_right(make_shown):
    image = side_by_side(make_shown(3, height=480, width=640, before=10, after=90))
    assert (image[:-STRIP_HEIGHT, :640] == 10).all()
    assert (image[:-STRIP_HEIGHT, 640:] == 90).all()


@pytest.mark.parametrize("encoder", [JpegEncoder, Vp8Encoder])
def test_strip_and_color_survive_the_codec(make_shown, encoder):
    import av

    shown = make_shown(777, height=480, width=640)
    shown.after[:] = (200, 60, 40)
    encoded = encoder().encode(shown, ticks=0, key=True)
    name = "mjpeg" if encoder is JpegEncoder else "vp8"
    decoder = av.CodecContext.create(name, "r")
    (frame,) = decoder.decode(av.Packet(encoded.content))
    decoded = frame.to_ndarray(format="rgb24")
    assert read_index_strip(decoded) == 777
    assert np.abs(decoded[100:200, 800:1100].mean((0, 1)) - (200, 60, 40)).max() < 4


def test_only_requested_frames_are_key_frames(make_shown):
    encoder = Vp8Encoder()
    keys = [encoder.encode(make_shown(at), ticks=3000 * at, key=at == 3).key for at in range(5)]
    assert keys == [True, False, False, True, False]


def frame(index, *, key=False):
    return EncodedFrame(content=b"", key=key, index=index, ticks=index)


def test_a_slow_viewer_drops_frames_until_a_key_frame():
    async def play():
        viewer = ViewerQueue(2)
        viewer.offer(frame(0))  # cannot be decoded
        for index, key in [(1, True), (2, False), (3, False), (4, False), (5, True), (6, False)]:
            viewer.offer(frame(index, key=key))
        # 1 and 2 waited when 3 came; 3 and 4 build on them
        assert [(await viewer.take()).index for _ in range(2)] == [5, 6]
        assert viewer.dropped == 5
        viewer.close()
        with pytest.raises(QueueClosed):
            await viewer.take()

    asyncio.run(play())


class Counting:
    """Encodes nothing, and counts."""

    def encode(self, shown, *, ticks, key):
        return EncodedFrame(content=b"x", key=key, index=shown.before.index, ticks=ticks)


def test_a_frame_is_encoded_once_and_a_slow_viewer_delays_no_other(make_shown):
    async def play():
        frame_buffer = FrameBuffer(asyncio.get_running_loop())
        broadcast = Broadcast(frame_buffer, Counting, depth=3)
        quick, _slow = broadcast.subscribe(), broadcast.subscribe()
        running = asyncio.ensure_future(broadcast.run())
        got = []
        for index in range(20):
            frame_buffer.put(make_shown(index))
            got.append((await asyncio.wait_for(quick.take(), 5)).index)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert got == list(range(20))
        assert broadcast.encoded == 20
        assert broadcast.dropped > 0

    asyncio.run(play())


def test_the_frame_buffer_is_bounded_in_memory(make_shown):
    async def play():
        size = 2 * 48 * 64 * 3
        frame_buffer = FrameBuffer(asyncio.get_running_loop(), kept_bytes=3 * size)
        for index in (0, 1, 2, 3, 3, 3):
            frame_buffer.put(make_shown(index))
        assert [frame_buffer.find(index) is not None for index in range(4)] == [
            False,
            True,
            True,
            True,
        ]
        version, shown = await frame_buffer.wait_newer(0)
        assert (version, shown.before.index) == (6, 3)

    asyncio.run(play())
