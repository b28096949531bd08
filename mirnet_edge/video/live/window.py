"""The window: before and after with a split that can be dragged, figures, keys."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import VideoError
from mirnet_edge.video.frames import figures_line

if TYPE_CHECKING:
    from types import TracebackType

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.video.frames import DisplayedFrame
    from mirnet_edge.video.live.controls import Controls

KEYS = "space restore on/off  f freeze  s save  r record  m mode  q quit"
_WHITE, _RED = (255, 255, 255), (235, 64, 52)
_ESCAPE = 27


class Window:
    """Shows frames in a window of the desktop and passes its keys on to the controls."""

    def __init__(self, controls: Controls, title: str = "mirnet-edge") -> None:
        """Remember what keys act on; the window opens in `with`.

        Args:
            controls: Those of the pipeline.
            title: Of the window.
        """
        self._controls, self._title = controls, title
        self._split = 0.5
        self._width = 1
        self._dragging = False
        self._sized = False
        self._mode_place = 0

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
                "opencv-python in place of opencv-python-headless, or give --display web"
            ) from error
        self._sized = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import cv2

        cv2.destroyWindow(self._title)
        cv2.waitKey(1)  # without it the window stays until the program ends

    def show(self, shown: DisplayedFrame) -> None:
        """Draw a frame and answer keys; takes a few milliseconds."""
        import cv2

        image = compose_view(shown, self._split)
        self._width = image.shape[1]
        if not self._sized:
            cv2.resizeWindow(self._title, self._width, image.shape[0])
            self._sized = True
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._answer(cv2.waitKey(1))
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            self._controls.stop()  # closed by its own button

    def _answer(self, key: int) -> None:
        if key < 0:
            return
        pressed = chr(key & 0xFF).lower()
        actions = {
            " ": self._controls.toggle_restoring,
            "f": self._controls.toggle_frozen,
            "s": self._controls.ask_snapshot,
            "r": lambda: self._controls.set_recording(not self._controls.recording),
            "m": self._next_mode,
            "q": self._controls.stop,
            chr(_ESCAPE): self._controls.stop,
        }
        if pressed in actions:
            actions[pressed]()

    def _next_mode(self) -> None:
        modes = self._controls.modes
        if len(modes) > 1:
            self._mode_place = (self._mode_place + 1) % len(modes)
            self._controls.choose_mode(modes[self._mode_place])

    def _on_mouse(self, event: int, x: int, y: int, flags: int, parameter: object) -> None:
        del y, flags, parameter
        import cv2

        if event == cv2.EVENT_LBUTTONDOWN:
            self._dragging = True
        elif event == cv2.EVENT_LBUTTONUP:
            self._dragging = False
        if self._dragging:
            self._split = min(1.0, max(0.0, x / self._width))


def check_display() -> None:
    """Refuse a machine without a screen, where Qt would abort the program.

    Raises:
        VideoError: No display.
    """
    if sys.platform != "linux":
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise VideoError(
            "this machine has no display (neither DISPLAY nor WAYLAND_DISPLAY is set); give "
            "--display web to see it in a browser, or --display none with --record FILE"
        )


def compose_view(shown: DisplayedFrame, split: float) -> Frame:
    """Return a new image: before left of the split, after right of it, the figures on top.

    Args:
        shown: What the pipeline gives.
        split: From 0, all after, to 1, all before.
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
    _label(image, "before", (edge - 8, 8), scale, right=True)
    _label(image, "after" if shown.restored else "after (as it came)", (edge + 8, 8), scale)
    line = round(44 * scale)
    bottom = height - 8
    texts = [KEYS, figures_line(shown.figures), *([note] if (note := shown.figures.note) else [])]
    for place, text in enumerate(texts):
        _label(image, text, (8, bottom - (place + 1) * line), scale)
    if shown.figures.recording:
        cv2.circle(image, (width - 24, 24), 9, _RED, -1, cv2.LINE_AA)
    return image


def _label(
    image: Frame, text: str, corner: tuple[int, int], scale: float, *, right: bool = False
) -> None:
    """Write white on a dark ground; CORNER is the top left, or the top right."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    limit = image.shape[1] - 16
    (wide, tall), base = cv2.getTextSize(text, font, scale, 1)
    if wide > limit:  # small images: smaller letters rather than half a line
        scale *= limit / wide
        (wide, tall), base = cv2.getTextSize(text, font, scale, 1)
    left, top = corner[0] - (wide + 8 if right else 0), corner[1]
    rows = slice(max(0, top), max(0, top + tall + base + 6))
    columns = slice(max(0, left), max(0, left + wide + 8))
    image[rows, columns] //= 3
    cv2.putText(image, text, (left + 4, top + tall + 3), font, scale, _WHITE, 1, cv2.LINE_AA)
