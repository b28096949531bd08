"""Where frames go: what every sink does, and one that puts any other on a thread of its own."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from mirnet_edge.video.mailbox import Mailbox, MailboxClosed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mirnet_edge.video.frames import Shown


class Sink(Protocol):
    """Shows, writes or sends frames. `with` opens it and, at the end, closes what it wrote.

    Opened, used and closed by one thread.
    """

    def __enter__(self) -> Sink: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, shown: Shown) -> None:
        """Take a frame, in a few milliseconds: the next frame waits meanwhile.

        What it raises ends the program; to end it without a fault there is `Controls.stop`.
        Called again with the same picture while that is frozen, or while the source is silent.
        """


class MemorySink:
    """Remembers what it was shown. For tests of all that is done with sinks."""

    def __init__(self, on_show: Callable[[Shown], None] = lambda shown: None) -> None:
        """Say what else it does with every frame."""
        self._on_show = on_show
        self.shown: list[Shown] = []
        """What it got, in order."""
        self.is_open = False

    @property
    def indices(self) -> list[int]:
        """Return the indices of the frames it got."""
        return [shown.before.index for shown in self.shown]

    def __enter__(self) -> MemorySink:
        self.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open = False

    def show(self, shown: Shown) -> None:
        """Remember a frame.

        Raises:
            ValueError: It is not open.
            Exception: What `on_show` raises.
        """
        if not self.is_open:
            raise ValueError("a frame was shown to a sink that is not open")
        self.shown.append(shown)
        self._on_show(shown)


class Detached:
    """Runs a sink on a thread of its own: a slow one loses frames and slows nobody.

    The sink is opened, used and closed there. What it raises reaches the main thread at the next
    frame, or at the end.
    """

    def __init__(self, sink: Sink, *, patience_s: float = 10.0) -> None:
        """Remember the sink; it is opened by `with`.

        Args:
            sink: Any.
            patience_s: How long closing it may take before it is left behind.
        """
        self._sink = sink
        self._patience_s = patience_s
        self._mailbox: Mailbox[Shown] = Mailbox()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None

    @property
    def dropped(self) -> int:
        """Return how many frames the sink was too slow for."""
        return self._mailbox.dropped

    def __enter__(self) -> Detached:
        self._mailbox, self._error = Mailbox(), None
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()
        self._ready.wait(self._patience_s)
        self._raise_error()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mailbox.close()
        if self._thread is not None:
            self._thread.join(self._patience_s)
        if error is None:
            self._raise_error()

    def show(self, shown: Shown) -> None:
        """Leave a frame for the sink.

        Raises:
            BaseException: What the sink failed with.
        """
        self._raise_error()
        self._mailbox.put(shown)

    def _run(self) -> None:
        try:
            with self._sink as sink, suppress(MailboxClosed):
                self._ready.set()
                while True:
                    shown = self._mailbox.take()
                    if shown is not None:
                        sink.show(shown)
        except BaseException as error:  # noqa: BLE001  # carried to the main thread
            self._error = error
            self._mailbox.close()
        finally:
            self._ready.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
