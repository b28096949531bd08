from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.frames import Mailbox, MailboxClosed


@given(st.lists(st.sampled_from(["put", "take"]), max_size=60))
def test_what_is_taken_is_the_newest_and_everything_is_counted(steps):
    mailbox = Mailbox(VirtualClock())
    put, taken = 0, []
    for step in steps:
        if step == "put":
            mailbox.put(put)
            put += 1
        else:
            item = mailbox.take(0.0)
            if item is not None:
                assert item == put - 1
                taken.append(item)
    assert taken == sorted(set(taken))
    waiting = mailbox.take(0.0) is not None
    assert mailbox.put_count == put == len(taken) + mailbox.dropped + waiting


def test_the_last_item_is_still_there_after_closing():
    mailbox = Mailbox()
    mailbox.put("last")
    mailbox.close()
    mailbox.put("too late")
    assert mailbox.take() == "last"
    with pytest.raises(MailboxClosed):
        mailbox.take()
    assert mailbox.put_count == 1


def test_a_fault_comes_before_what_waits():
    mailbox = Mailbox()
    mailbox.put("frame")
    mailbox.close(ValueError("unplugged"))
    mailbox.close()  # the first call counts
    with pytest.raises(ValueError, match="unplugged"):
        mailbox.take()


@pytest.mark.parametrize("error", [None, ValueError("unplugged")], ids=["end", "fault"])
def test_closing_wakes_who_waits_at_once(error):
    mailbox = Mailbox()
    threading.Timer(0.05, mailbox.close, [error]).start()
    started = time.monotonic()
    with pytest.raises(MailboxClosed if error is None else ValueError):
        mailbox.take(10.0)
    assert time.monotonic() - started < 1.0


def test_putting_wakes_who_waits_at_once():
    mailbox = Mailbox()
    threading.Timer(0.05, mailbox.put, ["frame"]).start()
    started = time.monotonic()
    assert mailbox.take(10.0) == "frame"
    assert time.monotonic() - started < 1.0


def test_waiting_ends_when_the_time_is_up():
    clock = VirtualClock()
    mailbox = Mailbox(clock)
    assert mailbox.take(0.25) is None
    assert clock.now() == 0.25
