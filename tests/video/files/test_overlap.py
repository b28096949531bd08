"""Threads before and after restoring: order, bounds, errors, and that they end."""

from __future__ import annotations

import threading

import pytest

from mirnet_edge.errors import VideoError
from mirnet_edge.video.files.overlap import ReadAhead, WorkBehind


def test_items_come_in_order_and_at_most_a_few_ahead():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    with ReadAhead(items()) as ahead:
        for place, number in enumerate(ahead):
            assert number == place
            assert len(made) <= place + 4  # two wait, one is handed over, one is made


def test_the_next_item_is_made_while_the_last_one_is_used():
    made = threading.Event()

    def items():
        yield 0
        made.set()
        yield 1

    with ReadAhead(items()) as ahead:
        first = next(iter(ahead))
        assert made.wait(10.0)  # without asking for it
    assert first == 0


def test_an_error_is_raised_in_its_place_and_leaving_early_ends_the_thread():
    def items():
        yield 0
        raise VideoError("damaged")

    got = []
    with ReadAhead(items()) as ahead, pytest.raises(VideoError, match="damaged"):
        got.extend(ahead)
    assert not got or got == [0]
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    endless_items = endless()
    with ReadAhead(endless_items) as ahead:
        assert next(iter(ahead)) == 0
    assert threading.active_count() == before
    endless_items.close()  # the thread no longer runs it
    assert closed.is_set()


def test_work_is_done_in_order_on_another_thread():
    done, behind = [], WorkBehind()
    for number in range(10):
        behind.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    behind.wait()
    assert done == [(number, "work behind") for number in range(10)]
    behind.close()


def test_the_first_error_ends_the_work_and_is_raised():
    done, behind = [], WorkBehind()

    def fail():
        raise VideoError("the disk is full")

    behind.submit(fail)
    with pytest.raises(VideoError, match="the disk is full"):
        behind.wait()
    with pytest.raises(VideoError, match="the disk is full"):
        behind.submit(lambda: done.append(0))
    behind.close()
    assert not done


def test_work_that_waits_is_done_before_it_closes():
    done, behind, gate = [], WorkBehind(), threading.Event()
    behind.submit(gate.wait)
    behind.submit(lambda: done.append(1))
    gate.set()
    behind.close()
    assert done == [1]
    behind.close()  # once more changes nothing
