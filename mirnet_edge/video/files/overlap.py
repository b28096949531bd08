"""Work before and after restoring on threads of their own, in order and bounded.

While a frame is restored, the next ones are decoded and converted and the last ones encoded:
restoring, the longest stage, then waits for neither. Frames are restored one after the other on
the calling thread, as temporal smoothing needs it, and the result is the same to the byte.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

Item = TypeVar("Item")
_DEPTH = 2
"""Items that wait: one is enough to keep a thread busy, the second evens out slow ones."""
_POLL_S = 0.1


class _End:
    """What a thread puts last: the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class ReadAhead(Generic[Item]):
    """Iterates over items that a thread computes ahead, in their order.

    The thread runs while the context is open, and is at most two items ahead. An error of the
    items is raised where the next item would be.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """Store what to iterate over; from `with` on, only the thread uses it."""
        self._items = items
        self._queue: queue.Queue[Item | _End] = queue.Queue(_DEPTH)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)

    def __enter__(self) -> ReadAhead[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()  # what it reads is closed next

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again on the calling thread
            self._put(_End(error))
        else:
            self._put(_End(None))

    def _put(self, item: Item | _End) -> bool:
        """Put an item as soon as there is room; return False where nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False


class WorkBehind:
    """Calls functions on a thread, in their order; at most two wait.

    The first error ends it: later functions are not called, and the error is raised by the next
    `submit` or `wait`.
    """

    def __init__(self) -> None:
        """Start without a thread; the first `submit` starts it."""
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(_DEPTH)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Call a function after those submitted before it, once there is room for it.

        Raises:
            BaseException: The error of an earlier function.
        """
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="work behind", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def wait(self) -> None:
        """Return when all functions have been called.

        Raises:
            BaseException: The error of one of them.
        """
        self._queue.join()
        self._raise_error()

    def close(self) -> None:
        """End the thread after the functions that wait; their errors are dropped."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                if work is None:
                    return
                if self._error is None:
                    work()
            except BaseException as error:  # noqa: BLE001  # raised on the calling thread
                self._error = error
            finally:
                self._queue.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
