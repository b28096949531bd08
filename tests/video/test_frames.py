from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.frames import BufferClosed, LatestFrameBuffer


@given(st.lists(st.sampled_from(["put", "take"]), max_size=60))
def test_take_returns_the_newest_item_and_dropped_ones_are_counted(steps):
    buffer = LatestFrameBuffer(VirtualClock())
    put, taken = 0, []
    for step in steps:
        if step == "put":
            buffer.put(put)
            put += 1
        else:
            item = buffer.take(0.0)
            if item is not None:
                assert item == put - 1
                taken.append(item)
    assert taken == sorted(set(taken))
    waiting = buffer.take(0.0) is not None
    assert buffer.put_count == put == len(taken) + buffer.dropped + waiting


def test_the_last_item_can_be_taken_after_closing():
    buffer = LatestFrameBuffer()
    buffer.put("last")
    buffer.close()
    buffer.put("too late")
    assert buffer.take() == "last"
    with pytest.raises(BufferClosed):
        buffer.take()
    assert buffer.put_count == 1


def test_an_error_is_raised_before_a_waiting_item_is_returned():
    buffer = LatestFrameBuffer()
    buffer.put("frame")
    buffer.close(ValueError("unplugged"))
    buffer.close()  # the first call counts
    with pytest.raises(ValueError, match="unplugged"):
        buffer.take()


@pytest.mark.parametrize("error", [None, ValueError("unplugged")], ids=["end", "fault"])
def test_closing_wakes_a_waiting_take_at_once(error):
    buffer = LatestFrameBuffer()
    threading.Timer(0.05, buffer.close, [error]).start()
    started = time.monotonic()
    with pytest.raises(BufferClosed if error is None else ValueError):
        buffer.take(10.0)
    assert time.monotonic() - started < 5.0


def test_putting_wakes_a_waiting_take_at_once():
    buffer = LatestFrameBuffer()
    threading.Timer(0.05, buffer.put, ["frame"]).start()
    started = time.monotonic()
    assert buffer.take(10.0) == "frame"
    assert time.monotonic() - started < 5.0


def test_take_returns_none_on_timeout():
    clock = VirtualClock()
    buffer = LatestFrameBuffer(clock)
    assert buffer.take(0.25) is None
    assert clock.now() == 0.25
