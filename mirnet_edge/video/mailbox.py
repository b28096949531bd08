"""A place for one thing, the newest: what live video has instead of a queue."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from mirnet_edge.video.clock import REAL_CLOCK

if TYPE_CHECKING:
    from mirnet_edge.video.clock import Clock

Item = TypeVar("Item")


class MailboxClosed(Exception):  # noqa: N818  # the end of a stream, not a fault
    """Nothing more will come."""


class Mailbox(Generic[Item]):
    """Holds the newest item. Putting never waits; what was not taken is replaced and counted.

    One thread puts, one takes. What fails or ends on the putting side reaches the taking side at
    once, even while it waits.
    """

    def __init__(self, clock: Clock = REAL_CLOCK) -> None:
        """Start empty and open.

        Args:
            clock: What waits.
        """
        self._clock = clock
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._put = 0
        self._dropped = 0

    @property
    def put_count(self) -> int:
        """Return how many items were put."""
        with self._changed:
            return self._put

    @property
    def dropped(self) -> int:
        """Return how many items were replaced before they were taken."""
        with self._changed:
            return self._dropped

    def put(self, item: Item) -> None:
        """Leave an item; an item that is still there is dropped. Ignored once closed."""
        with self._changed:
            if self._closed:
                return
            self._put += 1
            self._dropped += self._item is not None
            self._item = item
            self._changed.notify_all()

    def take(self, timeout_s: float | None = None) -> Item | None:
        """Return the newest item, waiting for one; None where the time ran out.

        Raises:
            MailboxClosed: Closed, and the last item was taken.
            BaseException: What the putting side failed with; an item that waits is forgotten.
        """
        end = None if timeout_s is None else self._clock.now() + timeout_s
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._item is not None:
                    item, self._item = self._item, None
                    return item
                if self._closed:
                    raise MailboxClosed
                left = None if end is None else end - self._clock.now()
                if left is not None and left <= 0.0:
                    return None
                self._clock.wait(self._changed, left)

    def close(self, error: BaseException | None = None) -> None:
        """Tell the taking side that nothing more comes, and why where it is a fault.

        Only the first call counts.
        """
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()
