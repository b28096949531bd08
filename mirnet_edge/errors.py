"""The exceptions this package raises.

Every message answers three questions: what was expected, what was found, what to do.

MirnetEdgeError                 what a user can put right; the commands print one line, exit 2
├── CheckpointError             a weights file that cannot be opened, understood or trusted
├── ImageError                  an image or frame that does not decode or does not fit
├── CalibrationError            a calibration set that is missing, empty, broken or too small
├── BundleError                 a bundle that is incomplete, changed, or from another schema
├── GraphError                  an ONNX graph that a target would refuse or misread; names the node
├── EngineError                 a backend that cannot build, open or run a graph
├── MissingDependencyError      an optional package that is not installed; says how to install it
├── OptionError                 an option that makes no sense, or options that exclude each other
├── VideoError                  a camera, stream or video file that cannot be read or written
│   ├── ContainerError          a video that a container refuses; another may hold it
│   └── SourceInterruptedError  a camera or stream that gives no more frames and may come back
├── OutputError              stdout cannot be written: a full disk, a reader that ended
├── DataError                   a training or validation set that cannot be read
└── TrainingError               a run that cannot go on: its loss is no longer a number
PrecisionRejected               a requested precision was rejected by the quality gate; exit code 3
"""

from __future__ import annotations


class MirnetEdgeError(Exception):
    """Base of every error a user can put right."""


class CheckpointError(MirnetEdgeError):
    """A weights file cannot be opened, understood or trusted."""


class ImageError(MirnetEdgeError):
    """An image or frame does not decode or does not fit."""


class CalibrationError(MirnetEdgeError):
    """A calibration set is missing, empty, broken or too small."""


class BundleError(MirnetEdgeError):
    """A bundle is incomplete, changed, or from another schema."""


class GraphError(MirnetEdgeError):
    """A target would refuse or misread an ONNX graph."""


class EngineError(MirnetEdgeError):
    """A backend cannot build, open or run a graph."""


class MissingDependencyError(MirnetEdgeError):
    """An optional package is not installed."""


class OptionError(MirnetEdgeError):
    """An option's value makes no sense, or two options exclude each other."""


class VideoError(MirnetEdgeError):
    """A camera, stream or video file cannot be opened, read or written."""


class ContainerError(VideoError):
    """A container refuses a packet of a video that is written; another container may hold it."""


class SourceInterruptedError(VideoError):
    """A camera or stream gives no more frames; opening it again may help."""


class OutputError(MirnetEdgeError):
    """Stdout cannot be written."""


class DataError(MirnetEdgeError):
    """A training or validation set cannot be read."""


class TrainingError(MirnetEdgeError):
    """A training run cannot go on."""


class PrecisionRejected(Exception):  # noqa: N818  # an outcome with an exit code, not a fault
    """A requested precision was rejected by the quality gate."""
