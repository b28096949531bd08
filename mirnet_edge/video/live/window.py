"""The desktop window: before and after with a split to drag, statistics, keys."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import VideoError
from mirnet_edge.video.frames import format_status

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.controls import Controls

KEYS = "space restore on/off  f freeze  s save  r record  m configuration  q quit"
KEYS_OF_FILES = "space restore on/off  f pause  0 replay  s save  r record  m configuration  q quit"
_WHITE, _RED = (255, 255, 255), (235, 64, 52)
_ESCAPE = 27


class Window:
    """A sink that shows frames in a desktop window; keys change the controls."""

    def __init__(self, controls: Controls, title: str = "mirnet-edge") -> None:
        """Store the options; `with` opens the window.

        Args:
            controls: The pipeline's.
            title: The window's title.
        """
        self._controls, self._title = controls, title
        self._split = 0.5
        self._width = 1
        self._dragging = False
        self._has_size = False
        self._configuration_index = 0
        self._is_file = False

    def __enter__(self) -> Window:
        check_display()
        import cv2

        try:
            cv2.namedWindow(
                self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
            )
            cv2.setMouseCallback(self._title, self._on_mouse)
        except cv2.error as error:
            raise VideoError(
                f"this OpenCV opens no windows ({' '.join(str(error).split())[:120]}); install "
                "opencv-python in place of opencv-python-headless, or use --display web"
            ) from error
        self._has_size = False
        return self

    def __exit__(self, *_: object) -> None:
        import cv2

        cv2.destroyWindow(self._title)
        cv2.waitKey(1)  # without it the window stays until the program ends

    def show(self, shown: DisplayedFrame) -> None:
        """Draw a frame and handle keys; takes a few milliseconds."""
        import cv2

        self._is_file = shown.status.playback is not None
        image = compose_view(shown, self._split)
        self._width = image.shape[1]
        if not self._has_size:
            cv2.resizeWindow(self._title, self._width, image.shape[0])
            self._has_size = True
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._handle_key(cv2.waitKey(1))
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            self._controls.stop()  # its close button

    def _handle_key(self, key: int) -> None:
        if key < 0:
            return
        pressed = chr(key & 0xFF).lower()
        actions = {
            " ": self._controls.toggle_restoring,
            "f": self._controls.toggle_paused if self._is_file else self._controls.toggle_frozen,
            "s": self._controls.request_snapshot,
            "r": lambda: self._controls.set_recording(not self._controls.recording),
            "m": self._choose_next_configuration,
            "0": self._replay,
            "q": self._controls.stop,
            chr(_ESCAPE): self._controls.stop,
        }
        if pressed in actions:
            actions[pressed]()

    def _replay(self) -> None:
        self._controls.set_paused(False)
        self._controls.request_seek(0.0)

    def _choose_next_configuration(self) -> None:
        configurations = self._controls.configurations
        if len(configurations) > 1:
            self._configuration_index = (self._configuration_index + 1) % len(configurations)
            self._controls.choose_configuration(configurations[self._configuration_index])

    def _on_mouse(self, event: int, x: int, y: int, flags: int, parameter: object) -> None:
        del y, flags, parameter
        import cv2

        if event == cv2.EVENT_LBUTTONDOWN:
            self._dragging = True
        elif event == cv2.EVENT_LBUTTONUP:
            self._dragging = False
        if self._dragging:
            self._split = min(1.0, max(0.0, x / self._width))


def has_display() -> bool:
    """Return whether windows can be opened on this machine."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def check_display() -> None:
    """Raise on a machine without a display, where Qt would abort the program.

    Raises:
        VideoError: There is no display.
    """
    if not has_display():
        raise VideoError(
            "this machine has no display (neither DISPLAY nor WAYLAND_DISPLAY is set); use "
            "--display web to watch in a browser, or --display none with --record FILE"
        )


def compose_view(shown: DisplayedFrame, split: float) -> Frame:
    """Return a new image: before left of the split, after right of it, the status on top.

    Args:
        shown: The displayed frame.
        split: From 0 (after only) to 1 (before only).
    """
    import cv2

    image: Frame = np.array(shown.after, np.uint8)
    height, width = image.shape[:2]
    edge = round(split * width)
    before = shown.before.pixels
    if before.shape != image.shape:
        before = np.asarray(
            cv2.resize(before, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8
        )
    image[:, :edge] = before[:, :edge]
    scale = max(0.4, height / 900.0)
    if 0 < edge < width:
        image[:, max(0, edge - 1) : edge + 1] = 255
    _draw_label(image, "before", (edge - 8, 8), scale, right=True)
    _draw_label(image, "after" if shown.restored else "after (not restored)", (edge + 8, 8), scale)
    line = round(44 * scale)
    bottom = height - 8
    keys = KEYS if shown.status.playback is None else KEYS_OF_FILES
    texts = [keys, format_status(shown.status), *([note] if (note := shown.status.note) else [])]
    for place, text in enumerate(texts):
        _draw_label(image, text, (8, bottom - (place + 1) * line), scale)
    if shown.status.recording:
        cv2.circle(image, (width - 24, 24), 9, _RED, -1, cv2.LINE_AA)
    return image


def _draw_label(
    image: Frame, text: str, corner: tuple[int, int], scale: float, *, right: bool = False
) -> None:
    """Draw white text on a dark background; CORNER is the top left, or the top right."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    limit = image.shape[1] - 16
    (wide, tall), base = cv2.getTextSize(text, font, scale, 1)
    if wide > limit:  # small images: a smaller font rather than half a line
        scale *= limit / wide
        (wide, tall), base = cv2.getTextSize(text, font, scale, 1)
    left, top = corner[0] - (wide + 8 if right else 0), corner[1]
    rows = slice(max(0, top), max(0, top + tall + base + 6))
    columns = slice(max(0, left), max(0, left + wide + 8))
    image[rows, columns] //= 3
    cv2.putText(image, text, (left + 4, top + tall + 3), font, scale, _WHITE, 1, cv2.LINE_AA)
