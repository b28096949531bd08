"""Live controls: the requests of windows and web pages to the pipeline."""

from __future__ import annotations

import threading

from mirnet_edge.errors import OptionError


class Controls:
    """Requests to the pipeline and their state. All methods may be called from any thread.

    The pipeline reads the requests between two frames; no method waits for it.
    """

    def __init__(
        self,
        configurations: tuple[str, ...] = (),
        *,
        recording: bool = False,
        strength: float = 1.0,
        loop: bool = False,
    ) -> None:
        """Start with restoration on, neither frozen nor paused.

        Args:
            configurations: Those that `choose_configuration` accepts.
            recording: Whether to record from the first frame.
            strength: Share of the restored frame, from 0 to 1.
            loop: Whether a file begins again at its end.
        """
        self._lock = threading.Lock()
        self._configurations = configurations
        self._restoring, self._frozen, self._recording = True, False, recording
        self._strength = strength
        self._paused, self._loop = False, loop
        self._seek_s: float | None = None
        self._note = ""
        self._snapshots = 0
        self._requested: str | None = None
        self._stopped = threading.Event()

    @property
    def configurations(self) -> tuple[str, ...]:
        """Return the configurations that `choose_configuration` accepts."""
        with self._lock:
            return self._configurations

    @property
    def restoring(self) -> bool:
        """Return whether restoration is on."""
        with self._lock:
            return self._restoring

    @property
    def frozen(self) -> bool:
        """Return whether the display is frozen."""
        with self._lock:
            return self._frozen

    @property
    def strength(self) -> float:
        """Return the share of the restored frame, from 0 to 1."""
        with self._lock:
            return self._strength

    @property
    def paused(self) -> bool:
        """Return whether a file is paused; cameras cannot be."""
        with self._lock:
            return self._paused

    @property
    def loop(self) -> bool:
        """Return whether a file begins again at its end."""
        with self._lock:
            return self._loop

    @property
    def note(self) -> str:
        """Return the last warning of a sink, in one line; empty where there is none."""
        with self._lock:
            return self._note

    @property
    def recording(self) -> bool:
        """Return whether displayed frames are recorded."""
        with self._lock:
            return self._recording

    @property
    def snapshots(self) -> int:
        """Return how many snapshots were requested so far."""
        with self._lock:
            return self._snapshots

    @property
    def stopped(self) -> bool:
        """Return whether `stop` was called."""
        return self._stopped.is_set()

    @property
    def stop_event(self) -> threading.Event:
        """Return the event that `stop` sets, to wait for."""
        return self._stopped

    def set_configurations(self, configurations: tuple[str, ...]) -> None:
        """Set what `choose_configuration` accepts. Called by the pipeline."""
        with self._lock:
            self._configurations = configurations

    def toggle_restoring(self) -> None:
        """Switch restoration on or off."""
        with self._lock:
            self._restoring = not self._restoring

    def toggle_frozen(self) -> None:
        """Freeze the display, or resume."""
        with self._lock:
            self._frozen = not self._frozen

    def toggle_paused(self) -> None:
        """Pause a file, or resume."""
        with self._lock:
            self._paused = not self._paused

    def set_restoring(self, on: bool) -> None:
        """Switch restoration on or off."""
        with self._lock:
            self._restoring = on

    def set_frozen(self, on: bool) -> None:
        """Freeze the display, or resume."""
        with self._lock:
            self._frozen = on

    def set_strength(self, strength: float) -> None:
        """Set the share of the restored frame, from 0 to 1."""
        with self._lock:
            self._strength = min(1.0, max(0.0, strength))

    def set_paused(self, on: bool) -> None:
        """Pause a file, or resume."""
        with self._lock:
            self._paused = on

    def set_loop(self, on: bool) -> None:
        """Begin a file again at its end, or stop there."""
        with self._lock:
            self._loop = on

    def request_seek(self, position_s: float) -> None:
        """Request that a file goes on at a position, in seconds from its first frame.

        The newest request counts. Where the file is paused, the frame there is displayed.
        """
        with self._lock:
            self._seek_s = position_s

    def take_seek(self) -> float | None:
        """Return the position requested since the last call, None where none was."""
        with self._lock:
            position_s, self._seek_s = self._seek_s, None
            return position_s

    def set_note(self, note: str) -> None:
        """Set the warning that windows and pages display, in one line; empty for none."""
        with self._lock:
            self._note = note

    def set_recording(self, on: bool) -> None:
        """Start or stop recording."""
        with self._lock:
            self._recording = on

    def request_snapshot(self) -> None:
        """Request that the next displayed frame is saved."""
        with self._lock:
            self._snapshots += 1

    def choose_configuration(self, configuration: str) -> None:
        """Request another configuration; the newest request counts.

        Raises:
            OptionError: It is not one of `configurations`.
        """
        with self._lock:
            if configuration not in self._configurations:
                raise OptionError(
                    f"expected a configuration of {', '.join(self._configurations) or 'none'}, "
                    f"found {configuration!r}"
                )
            self._requested = configuration

    def take_configuration(self) -> str | None:
        """Return the configuration requested since the last call, None where none was.

        Called by the pipeline, between two frames.
        """
        with self._lock:
            configuration, self._requested = self._requested, None
            return configuration

    def stop(self) -> None:
        """End the pipeline after the current frame."""
        self._stopped.set()
