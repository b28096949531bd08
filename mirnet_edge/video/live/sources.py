"""Live sources: cameras, files, network streams, synthetic video; `--source` parsing."""

from __future__ import annotations

import itertools
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.dependencies import require
from mirnet_edge.errors import OptionError, SourceInterruptedError, VideoError
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.files.decoding import (
    RgbDecoder,
    VideoReader,
    convert_open_errors,
    ffmpeg_reason,
    read_color_tags,
    rotate_upright,
)
from mirnet_edge.video.frames import ColorTags, VideoFrame
from mirnet_edge.video.live.rpicam import rpicam_camera

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from av import VideoFrame as Decoded
    from av.container import InputContainer
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame, Frames
    from mirnet_edge.video.clock import Clock


class Source(Protocol):
    """Gives frames in order, while its context is open; it can be opened again.

    It is opened, read and closed by one thread, which need not be the one that created it.
    """

    @property
    def name(self) -> str:
        """The source's name in messages."""

    @property
    def paced(self) -> bool:
        """Whether frames must be delayed until their time stamps: for files, not for cameras."""

    @property
    def frame_time_s(self) -> float | None:
        """The announced frame interval in seconds; None where the source announces none."""

    def __enter__(self) -> Source: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def read(self) -> VideoFrame | None:
        """Return the next frame, waiting for it; None at the end.

        Raises:
            SourceInterruptedError: It was interrupted; opening it again may help.
            VideoError: It cannot be read.
        """


_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "srt://", "udp://", "tcp://")
_SYNTHETIC = "synthetic"
_GSTREAMER, _CSI, _RPICAM = "gst:", "csi", "rpicam"


def open_source(
    place: str,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    clock: Clock = REAL_CLOCK,
) -> Source:
    """Return the source for a value of `--source`; it is not opened yet.

    Args:
        place: A camera's number, a file, a URL, "gst: PIPELINE", "csi" or "csi:NUMBER" on a
            Jetson, "rpicam" or "rpicam:NUMBER" on a Raspberry Pi, or "synthetic".
        size: (height, width): requested from cameras; files and streams are scaled to it.
        fps: Requested from cameras, and used by the synthetic source.
        clock: For the times of capture.

    Raises:
        VideoError: There is no such file or camera.
    """
    if place == _SYNTHETIC:
        height, width = size or (480, 640)
        return SyntheticSource(width=width, height=height, fps=fps or 30.0, clock=clock)
    if place.isdecimal():
        check_number(int(place))
        opener = numbered_camera(int(place), size=size, fps=fps)
        return CameraSource(f"camera {place}", opener, clock=clock)
    if place.startswith(_GSTREAMER):
        pipeline = place.removeprefix(_GSTREAMER).strip()
        return CameraSource("the GStreamer pipeline", gstreamer_camera(pipeline), clock=clock)
    head, _, number = place.partition(":")
    if head == _CSI and (number or "0").isdecimal():
        pipeline = csi_pipeline(
            sensor=int(number or 0), size=size or (720, 1280), fps=round(fps or 30)
        )
        return CameraSource(f"CSI camera {number or 0}", gstreamer_camera(pipeline), clock=clock)
    if head == _RPICAM and (number or "0").isdecimal():
        opener = rpicam_camera(int(number or 0), size=size, fps=fps)
        return CameraSource(f"Raspberry Pi camera {number or 0}", opener, clock=clock)
    if place.startswith(_STREAMS):
        return StreamSource(place, size=size, clock=clock)
    if not Path(place).is_file():
        raise VideoError(
            f"--source {place}: expected a camera's number, a video file, a URL like "
            'rtsp://HOST/PATH, "gst: PIPELINE", csi, rpicam or synthetic; found no such file'
        )
    return FileSource(Path(place), size=size, clock=clock)


def read_clip(path: Path, count: int, *, widest: int | None = None) -> Frames:
    """Return the first frames of a video, (N, H, W, 3) uint8 RGB, upright.

    Args:
        path: Any format of FFmpeg.
        count: How many frames.
        widest: Frames that are wider are shrunk to this width.

    Raises:
        VideoError: It is not a video, or has fewer frames than that.
    """
    import cv2

    frames: list[Frame] = []
    with FileSource(path) as source:
        while len(frames) < count and (read := source.read()) is not None:
            pixels = read.pixels
            height, width = pixels.shape[:2]
            if widest is not None and width > widest:
                size = (widest, round(widest * height / width))
                pixels = np.asarray(
                    cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8
                )
            frames.append(pixels)
    if len(frames) < count:
        raise VideoError(
            f"{path}: expected at least {count} frames, found {len(frames)} that can be decoded"
        )
    return np.stack(frames)


_PLAUSIBLE_FPS = (1.0, 1000.0)
_MJPEG_ABOVE = 640 * 480


class CaptureDevice(Protocol):
    """The part of `cv2.VideoCapture` that is used here."""

    def isOpened(self) -> bool: ...  # noqa: N802, D102  # OpenCV's name

    def grab(self) -> bool: ...  # noqa: D102

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]: ...  # noqa: D102

    def get(self, property_: int) -> float: ...  # noqa: D102

    def release(self) -> None: ...  # noqa: D102


class CameraSource:
    """A camera. The time of capture is when a frame is grabbed, before it is decoded."""

    def __init__(
        self, name: str, open_device: Callable[[], CaptureDevice], *, clock: Clock = REAL_CLOCK
    ) -> None:
        """Store how to open it.

        Args:
            name: For messages.
            open_device: See `numbered_camera` and `gstreamer_camera`.
            clock: For the times of capture.
        """
        self._name, self._open_device, self._clock = name, open_device, clock
        self._device: CaptureDevice | None = None
        self._index = 0
        self._frame_time_s: float | None = None

    @property
    def name(self) -> str:
        """Return the camera's name in messages."""
        return self._name

    @property
    def paced(self) -> bool:
        """Return False: a camera sets the pace."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return the announced frame interval in seconds, None before the camera was opened."""
        return self._frame_time_s

    def __enter__(self) -> CameraSource:
        import cv2

        device = self._open_device()
        if not device.isOpened():
            device.release()
            raise _missing_camera(self._name)
        fps = device.get(cv2.CAP_PROP_FPS)
        self._frame_time_s = 1.0 / fps if _PLAUSIBLE_FPS[0] <= fps <= _PLAUSIBLE_FPS[1] else None
        self._device = device
        return self

    def __exit__(self, *_: object) -> None:
        if self._device is not None:
            self._device.release()
            self._device = None

    def read(self) -> VideoFrame | None:
        """Return the next frame.

        Raises:
            SourceInterruptedError: The camera was unplugged, or taken by another program.
            VideoError: Used outside `with`.
        """
        import cv2

        if self._device is None:
            raise VideoError(f"{self._name} is not open: expected `with source:`")
        grabbed = self._device.grab()
        captured_s = self._clock.now()
        success, pixels = self._device.retrieve() if grabbed else (False, None)
        if not success or pixels is None:
            raise SourceInterruptedError(f"{self._name} gives no more frames; was it unplugged?")
        index, self._index = self._index, self._index + 1
        rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        return VideoFrame(pixels=rgb, index=index, captured_s=captured_s)


def numbered_camera(
    number: int, *, size: tuple[int, int] | None = None, fps: float | None = None
) -> Callable[[], CaptureDevice]:
    """Return a function that opens a camera by its number, with a buffer of one frame.

    Args:
        number: 0 for the first.
        size: (height, width) to request; None for the default.
        fps: The frame rate to request; None for the default.
    """

    def open_device() -> CaptureDevice:
        import cv2

        # OpenCV's own messages about a missing camera are less clear than ours
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        api = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        device = cv2.VideoCapture(number, api)
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # V4L2 buffers four frames: 133 ms
        if size is not None:
            if size[0] * size[1] > _MJPEG_ABOVE:  # uncompressed, USB 2 carries 5 to 10 fps
                device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            device.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
            device.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        if fps is not None:
            device.set(cv2.CAP_PROP_FPS, fps)
        return device  # type: ignore[return-value]  # its properties are named otherwise

    return open_device


def gstreamer_camera(pipeline: str) -> Callable[[], CaptureDevice]:
    """Return a function that opens a GStreamer pipeline.

    Args:
        pipeline: In the syntax of `gst-launch-1.0`. Where it has no appsink, one is added that
            keeps only the newest frame.
    """

    def open_device() -> CaptureDevice:
        import cv2

        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise VideoError(
                f"OpenCV {cv2.__version__} was built without GStreamer, which gst: and csi need "
                "(the package from pip has none); use the system's OpenCV (Debian, JetPack: "
                "python3-opencv), or give a camera's number"
            )
        return cv2.VideoCapture(  # type: ignore[return-value]  # as above
            with_appsink(pipeline), cv2.CAP_GSTREAMER
        )

    return open_device


def with_appsink(pipeline: str) -> str:
    """Return the pipeline with an appsink that gives BGR frames and keeps only the newest."""
    if "appsink" in pipeline:
        return pipeline
    head = pipeline.rstrip("! ")
    sink = "appsink drop=true max-buffers=1 sync=false"
    return f"{head} ! videoconvert ! video/x-raw,format=BGR ! {sink}"


def csi_pipeline(
    *, sensor: int = 0, size: tuple[int, int] = (720, 1280), fps: int = 30, flip: int = 0
) -> str:
    """Return the GStreamer pipeline of a CSI camera on a Jetson.

    Args:
        sensor: The camera's number.
        size: (height, width).
        fps: Frames per second.
        flip: `flip-method` of nvvidconv: 0 for none, 2 to rotate by 180 degrees.
    """
    height, width = size
    return with_appsink(
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        # nvvidconv has no BGR output; videoconvert drops the fourth channel
        f"nvvidconv flip-method={flip} ! video/x-raw,format=BGRx"
    )


def find_camera() -> tuple[str, str] | tuple[None, str]:
    """Return the number of the first camera that opens; None and the reason where none does."""
    numbers = camera_numbers()
    for number in numbers:
        # some numbers are a camera's metadata; others are held by another program
        device = numbered_camera(number)()
        opened = device.isOpened() and device.grab()
        device.release()
        if opened:
            return str(number), ""
    return None, "no camera was found" if not numbers else "no camera gives frames"


def camera_numbers() -> list[int]:
    """Return the numbers that may be cameras; 0 alone where the system does not list them."""
    if sys.platform != "linux":
        return [0]
    names = [path.name.removeprefix("video") for path in Path("/dev").glob("video*")]
    return sorted(int(name) for name in names if name.isdecimal())


def check_number(number: int) -> None:
    """Raise for a camera that does not exist, where the system shows that without opening it.

    Raises:
        VideoError: There is no such camera.
    """
    if sys.platform == "linux" and not Path(f"/dev/video{number}").exists():
        raise _missing_camera(f"camera {number}")


def _missing_camera(name: str) -> VideoError:
    return VideoError(
        f"{name} cannot be opened{_list_cameras()}; plug one in, close the program that holds "
        "it, or try without: --source synthetic"
    )


def _list_cameras() -> str:
    if sys.platform != "linux":
        return ""
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f" (this machine has {', '.join(found)})" if found else " (this machine has no camera)"


_OPEN_S, _READ_TIMEOUT_S = 10.0, 5.0
# RTSP over UDP loses packets on a busy network, which smears frames; buffering would add delay
_LOW_DELAY = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class FileSource:
    """A video file, played at its own speed like a camera and rotated upright."""

    def __init__(
        self, path: Path, *, size: tuple[int, int] | None = None, clock: Clock = REAL_CLOCK
    ) -> None:
        """Store the path; nothing is read yet.

        Args:
            path: Any format of FFmpeg.
            size: (height, width) to scale frames to, before rotation; None for their own.
            clock: For the times of capture.
        """
        self._path, self._size, self._clock = path, size, clock
        self._reader = VideoReader(path, is_fast=True)
        self._frames: Iterator[Decoded] = iter(())
        self._index = 0
        self._rate: float | None = None
        self._duration_s: float | None = None
        self._first_s: float | None = None

    @property
    def duration_s(self) -> float | None:
        """Return the duration in seconds, None where it is unknown, as before the opening."""
        return self._duration_s

    @property
    def name(self) -> str:
        """Return the file's name, without its folder."""
        return self._path.name

    @property
    def paced(self) -> bool:
        """Return True: a file is read faster than it is played."""
        return True

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames, None before it was opened."""
        return 1.0 / self._rate if self._rate else None

    def __enter__(self) -> FileSource:
        self._decoder = RgbDecoder(self._size)
        reader = self._reader.__enter__()
        self._rate = float(reader.rate) if reader.rate else None
        self._duration_s = reader.duration_s
        self._frames = self._decode(reader)
        self._index = 0
        self._first_s = None
        return self

    def __exit__(self, *_: object) -> None:
        self._frames = iter(())
        self._reader.__exit__()

    def read(self) -> VideoFrame | None:
        """Return the next frame, None after the last that can be decoded.

        Raises:
            VideoError: No frame can be decoded.
        """
        frame = next(self._frames, None)
        if frame is None:
            if self._index == 0:
                raise VideoError(
                    f"{self._path} has no frame that can be decoded; choose another file"
                )
            return None
        read = _video_frame(frame, self._decoder, self._index, self._clock.now())
        if self._index == 0:
            self._first_s = read.time_s
        self._index += 1
        return read

    def seek(self, position_s: float) -> None:
        """Continue with the frame at a position, after the key frame before it was decoded.

        Args:
            position_s: In seconds from the first frame.

        Raises:
            VideoError: The file cannot be opened again.
        """
        reader, first_s = self._reader, self._first_s
        target_s = position_s + (first_s or 0.0)
        if first_s is None or not _seek_key_frame(reader, target_s):
            reader.__exit__()  # from the beginning, then: slower, and always possible
            reader.__enter__()
        self._frames = self._decode(reader)
        if first_s is not None:
            # half a frame earlier: positions are rounded
            earliest_s = target_s - (0.5 / self._rate if self._rate else 0.0)
            self._frames = itertools.dropwhile(
                lambda frame: frame.time is not None and frame.time < earliest_s, self._frames
            )

    @staticmethod
    def _decode(reader: VideoReader) -> Iterator[Decoded]:
        return (frame for packet in reader.packets() for frame in reader.decode(packet))


def _seek_key_frame(reader: VideoReader, target_s: float) -> bool:
    """Seek the key frame before a time, and return whether that succeeded."""
    av = require("av", "reading video")
    time_base = reader.stream.time_base
    if time_base is None:
        return False
    try:
        reader.container.seek(round(target_s / time_base), stream=reader.stream)
    except av.FFmpegError:
        return False
    return True


class StreamSource:
    """A network stream: RTSP over TCP, HTTP, RTMP, SRT or UDP."""

    def __init__(
        self, url: str, *, size: tuple[int, int] | None = None, clock: Clock = REAL_CLOCK
    ) -> None:
        """Store the URL; nothing is opened yet.

        Args:
            url: With its protocol.
            size: (height, width) to scale frames to; None for their own.
            clock: For the times of capture.
        """
        self._url, self._size, self._clock = url, size, clock
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[Decoded, float]] = iter(())
        self._index = 0
        self._rate: float | None = None

    @property
    def name(self) -> str:
        """Return the URL without credentials."""
        return strip_credentials(self._url)

    @property
    def paced(self) -> bool:
        """Return False: the sender sets the pace."""
        return False

    @property
    def frame_time_s(self) -> float | None:
        """Return the announced frame interval in seconds, None where the stream has none."""
        return 1.0 / self._rate if self._rate else None

    def __enter__(self) -> StreamSource:
        av = require("av", "reading network streams")
        self._decoder = RgbDecoder(self._size)
        options = _LOW_DELAY if self._url.startswith("rtsp") else {"fflags": "nobuffer"}
        started_s = self._clock.now()
        try:
            with convert_open_errors(self.name):
                self._container = av.open(
                    self._url, options=options, timeout=(_OPEN_S, _READ_TIMEOUT_S)
                )
        except VideoError as error:
            if self._clock.now() - started_s < _OPEN_S:
                raise
            raise VideoError(  # FFmpeg's own words are about its exit, or invalid data
                f"{self.name} sent no video within {_OPEN_S:g} s; check the URL, and that the "
                "camera is on"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{self.name} sends no video; check the URL")
        rate = self._container.streams.video[0].average_rate
        self._rate = float(rate) if rate else None
        self._frames = self._decode(self._container)
        return self

    def __exit__(self, *_: object) -> None:
        self._frames = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self) -> VideoFrame | None:
        """Return the next frame.

        Raises:
            SourceInterruptedError: The sender stopped sending or closed the connection.
        """
        av = require("av", "reading network streams")
        try:
            frame, received_s = next(self._frames)
        except StopIteration:
            raise SourceInterruptedError(f"{self.name} has ended") from None
        except av.error.ExitError as error:
            raise SourceInterruptedError(
                f"{self.name} was interrupted: nothing came for {_READ_TIMEOUT_S:g} s"
            ) from error
        except av.FFmpegError as error:
            raise SourceInterruptedError(
                f"{self.name} was interrupted: {ffmpeg_reason(error)}"
            ) from error
        read = _video_frame(frame, self._decoder, self._index, received_s)
        self._index += 1
        return read

    def _decode(self, container: InputContainer) -> Iterator[tuple[Decoded, float]]:
        """Yield frames, each with the time at which its last packet was received."""
        av = require("av", "reading network streams")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads delay by one frame per thread
        for packet in container.demux(stream):
            received_s = self._clock.now()
            try:
                frames = packet.decode()
            except av.FFmpegError:  # a broken frame, or packets before the first key frame
                continue
            for frame in frames:
                yield frame, received_s


def strip_credentials(url: str) -> str:
    """Return a URL without user and password, for messages."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.rpartition('@')[2]}"


def _video_frame(
    frame: Decoded, decoder: RgbDecoder, index: int, captured_s: float
) -> VideoFrame:  # fmt: skip
    return VideoFrame(
        # converted on first use: a dropped frame needs no pixels, which cost as much as decoding
        pixels=lambda: rotate_upright(decoder.pixels(frame), frame.rotation),
        index=index,
        captured_s=captured_s,
        pts=frame.pts,
        time_base=frame.time_base,
        color=read_color_tags(frame),
    )


class SyntheticSource:
    """A dark, noisy room with a moving lamp; the same frames for the same seed.

    Each frame has its own noise. Its content depends on the seed and its index only.
    """

    def __init__(
        self,
        *,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        frames: int | None = None,
        seed: int = 0,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Store the options; nothing is computed yet.

        Args:
            width: Of the frames.
            height: Of the frames.
            fps: The frame rate.
            frames: The number of frames; None for no end.
            seed: The random seed of scene and noise.
            clock: For the times of capture.

        Raises:
            OptionError: Size or frame rate is not above 0.
        """
        if width < 1 or height < 1 or not fps > 0.0:
            raise OptionError(
                f"expected a size and frames per second above 0, found {width}x{height} at {fps:g}"
            )
        self._width, self._height = width, height
        self._rate = Fraction(fps).limit_denominator(1001)
        self._frames, self._seed, self._clock = frames, seed, clock
        self._index = 0
        self._scene: NDArray[np.float32] | None = None
        self._noise: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """Return "synthetic"."""
        return "synthetic"

    @property
    def paced(self) -> bool:
        """Return True: frames are computed as fast as they are read."""
        return True

    @property
    def frame_time_s(self) -> float | None:
        """Return the seconds between two frames."""
        return float(1 / self._rate)

    def __enter__(self) -> SyntheticSource:
        generator = np.random.default_rng(self._seed)
        self._scene = _room(self._height, self._width, generator)
        # one noise field, cropped at a random position per frame: sampling a new one takes 20 ms
        self._noise = generator.normal(0.0, 0.02, (2 * self._height, 2 * self._width, 1)).astype(
            np.float32
        )
        self._index = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._scene = self._noise = None

    def read(self) -> VideoFrame | None:
        """Return the next frame, None after the last.

        Raises:
            OptionError: Used outside `with`.
        """
        if self._scene is None or self._noise is None:
            raise OptionError("the synthetic source is not open: expected `with source:`")
        if self._frames is not None and self._index >= self._frames:
            return None
        index, self._index = self._index, self._index + 1
        return VideoFrame(
            pixels=self._render(index, self._scene, self._noise),
            index=index,
            captured_s=self._clock.now(),
            pts=index,
            time_base=1 / self._rate,
            color=ColorTags(),
        )

    def _render(self, index: int, scene: NDArray[np.float32], noise: NDArray[np.float32]) -> Frame:
        generator = np.random.default_rng((self._seed, index))
        row = int(generator.integers(0, self._height + 1))
        column = int(generator.integers(0, self._width + 1))
        # the lamp moves in a circle, once in four seconds
        angle = 2.0 * np.pi * index / float(4 * self._rate)
        light = _spot(
            self._height, self._width, 0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)
        )
        image = scene * (0.35 + light[..., None])
        image += noise[row : row + self._height, column : column + self._width]
        pixels: Frame = (255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
        return pixels


def _room(height: int, width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return (H, W, 3): a wall, a floor and objects of many colors, as dark as a room at night."""
    room = np.full((height, width, 3), 0.10, np.float32)
    room[2 * height // 3 :] = (0.09, 0.07, 0.05)
    for _ in range(24):
        top, left = generator.integers(0, height), generator.integers(0, width)
        tall, wide = generator.integers(1, height // 4 + 2), generator.integers(1, width // 6 + 2)
        room[top : top + tall, left : left + wide] = generator.uniform(0.02, 0.22, 3)
    return room


def _spot(height: int, width: int, across: float, down: float) -> NDArray[np.float32]:
    """Return (H, W): a Gaussian spot of light, 1 at its center."""
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - np.float32(down)
    columns = (np.arange(width, dtype=np.float32)[None] + 0.5) / width - np.float32(across)
    light: NDArray[np.float32] = np.exp(-12.0 * rows**2) * np.exp(-12.0 * columns**2)
    return light
