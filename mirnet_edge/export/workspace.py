"""Open what the stages of an export share: network, image contract, calibration set, options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mirnet_edge.calibration.presets import open_set
from mirnet_edge.calibration.sets import builtin_set, fit_sample
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.images.contract import batch_from_frames, pad_to_multiple
from mirnet_edge.manifest import ImageContract

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from mirnet_edge.calibration.sets import CalibrationSet
    from mirnet_edge.checkpoints import LoadedCheckpoint
    from mirnet_edge.export.kits import KitName
    from mirnet_edge.images.contract import Frames

Target = Literal["cpu", "tensorrt", "all"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, for which targets, and with which tolerance.

    Raises:
        OptionError: A value makes no sense, or INT8 has nothing to calibrate on.
    """

    weights: str = "shipped:low-light"
    weights_key: str | None = None
    """Which set of weights of several in the file; see `checkpoints.load`."""
    out: Path
    fp16: bool = False
    int8: bool = False
    fp8: bool = False
    """FP8 graphs for TensorRT, with the ranges of INT8."""
    kits: tuple[KitName, ...] = ()
    """Compilers to write a kit for; see `export.kits`."""
    size: tuple[int, int] | None = None
    """(height, width) of a graph with fixed shape; None for any size."""
    io: Literal["uint8", "float"] = "uint8"
    calibration: Path | str | None = None
    """A folder of images, a preset's file or a preset's name; None for the built-in set."""
    max_drop_db: float = 0.1
    """The largest accuracy drop against fp32 that the quality gate accepts."""
    target: Target = "all"
    litert: bool = False
    """Also write LiteRT models, in the same precisions."""
    anchored: bool = False
    """Graphs with global context vectors as inputs and outputs: `models.global_context`."""
    mixed: bool = False
    """Choose by measurement which blocks the INT8 graphs quantize (mixed precision)."""
    target_fps: float | None = None
    """With `mixed`: the most accurate choice of this throughput, not the fastest accepted one."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.size is not None and min(self.size) < 1:
            height, width = self.size
            raise OptionError(f"--size must be positive, found {width}x{height}; try 640x480")
        if not self.max_drop_db >= 0.0:
            raise OptionError(f"--max-drop must be 0 dB or more, found {self.max_drop_db:g}")
        if self.target not in ("cpu", "tensorrt", "all"):
            raise OptionError(f"--target must be cpu, tensorrt or all, found {self.target!r}")
        if self.fp16 and self.target == "cpu" and not self.litert:
            raise OptionError(
                "--fp16 makes a graph for TensorRT, found --target cpu; give --target all, or "
                "leave --fp16 out"
            )
        if self.io not in ("uint8", "float"):
            raise OptionError(f"--io must be uint8 or float, found {self.io!r}")
        if self.mixed and not self.int8:
            raise OptionError("--mixed chooses what INT8 graphs quantize; add --int8")
        if self.target_fps is not None and not (self.mixed and self.target_fps > 0.0):
            raise OptionError(
                f"--target-fps is a number above 0 and goes with --mixed, found {self.target_fps:g}"
            )
        self._check_targets()

    def _check_targets(self) -> None:
        """Refuse graphs and kits that lack what they need."""
        if self.kits and self.size is None:
            raise OptionError(
                f"--format {self.kits[0]} needs the one size that its compiler builds for, found "
                "any size; give --size, as 640x480"
            )
        if self.litert and (self.size is None or self.anchored):
            found = "any size" if self.size is None else "--anchored"
            raise OptionError(
                "--format litert writes models of one size that take frames alone, found "
                f"{found}; give --size, as 640x480, without --anchored"
            )
        if self.fp8 and self.target == "cpu":
            raise OptionError(
                "--fp8 makes a graph for TensorRT, found --target cpu; give --target all, or "
                "leave --fp8 out"
            )
        if (
            self.is_calibrated
            and self.calibration is None
            and not self.weights.startswith("shipped:")
        ):
            what = "int8" if self.int8 else "fp8" if self.fp8 else f"format {self.kits[0]}"
            raise OptionError(
                f"--{what} needs images to set its ranges on, and {self.weights} has none: give "
                "--calibration DIR with images as the camera takes them"
            )

    @property
    def is_calibrated(self) -> bool:
        """Return whether some graph needs ranges."""
        return self.int8 or self.fp8 or bool(self.kits)


_TIMING_SIZE = (480, 640)
_LARGEST_SAMPLE = (960, 1280)
# Images are evaluated and timed in a dozen configurations. One of the full MIRNet costs 2.2 TMACs
# at 640x480, half a minute on two cores: it is evaluated on smaller cuts, and the manifest says so.
_AFFORDABLE_MACS = 128e9
_SMALLEST_CUT = 128


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """All that the stages of one export take: folder, network, contract, images and options."""

    folder: Path
    """Where the bundle is written."""
    options: ExportOptions
    loaded: LoadedCheckpoint
    """The network in its training form, with its model card."""
    image: ImageContract
    images: CalibrationSet
    """Calibration and evaluation images, at the sizes that graphs take and machines afford."""
    timing_frame: Frames
    """(1, H, W, 3) uint8, padded: the frame that configurations are timed on."""
    on_stage: Callable[[str], None] = lambda what: None
    """Called with a few words as each stage begins."""

    @property
    def weights(self) -> Path:
        """Return the path of the bundle's weights file."""
        return self.folder / "weights.safetensors"

    @property
    def samples(self) -> list[np.ndarray]:
        """Return the calibration images as a graph takes them."""
        return make_graph_inputs([sample.frame for sample in self.images.calibration], self.image)

    def path(self, file: str) -> Path:
        """Return the path of a file of the bundle."""
        return self.folder / file


def open_workspace(
    options: ExportOptions, folder: Path, on_stage: Callable[[str], None] = lambda what: None
) -> Workspace:
    """Open weights and images of an export.

    Args:
        options: What to export.
        folder: Where the files of the export go.
        on_stage: Called with a few words as each stage begins.

    Raises:
        CheckpointError: The weights are not usable.
        CalibrationError: The calibration set is not usable.
    """
    from mirnet_edge import checkpoints

    on_stage(f"open {options.weights}")
    loaded = checkpoints.load(options.weights, options.weights_key)
    image = make_image_contract(loaded, options)
    on_stage("read the calibration and evaluation images")
    images = fit_calibration_set(open_calibration_set(options, loaded, image), image, loaded)
    return Workspace(
        folder=folder,
        options=options,
        loaded=loaded,
        image=image,
        images=images,
        timing_frame=make_timing_frame(images, image, loaded),
        on_stage=on_stage,
    )


def make_image_contract(loaded: LoadedCheckpoint, options: ExportOptions) -> ImageContract:
    """Return what the graphs of an export take and give."""
    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    size = options.size
    if size is not None:
        size = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
    scale = int(getattr(loaded.model.config, "scale", 1))
    return ImageContract(io=options.io, multiple=multiple, size=size, scale=scale)


def open_calibration_set(
    options: ExportOptions, loaded: LoadedCheckpoint, image: ImageContract
) -> CalibrationSet:
    """Return the user's calibration set, or the built-in one of the weights' task.

    Raises:
        CalibrationError: It is not usable, or the built-in one does not fit the network.
    """
    # weights without a task are taken for low-light weights
    task = loaded.card.task if loaded.card.task != "unknown" else "low-light"
    if options.calibration is not None:
        found = open_set(options.calibration, task=task, scale=image.scale)
    else:
        found = builtin_set(task)
    first = found.evaluation[0]
    if first.reference is not None and len(first.reference) != image.scale * len(first.frame):
        raise CalibrationError(
            f"{found.source} does not fit a network that enlarges {image.scale} times; give "
            "images of your own with references of that size: --calibration DIR"
        )
    return found


def fit_calibration_set(
    images: CalibrationSet, image: ImageContract, loaded: LoadedCheckpoint
) -> CalibrationSet:
    """Return the images at the graphs' fixed size, or at most at one that is affordable."""
    largest = _largest_affordable_size(_LARGEST_SAMPLE, loaded)
    return replace(
        images,
        calibration=tuple(fit_sample(one, image.size, largest) for one in images.calibration),
        evaluation=tuple(fit_sample(one, image.size, largest) for one in images.evaluation),
    )


def make_timing_frame(
    images: CalibrationSet, image: ImageContract, loaded: LoadedCheckpoint
) -> Frames:
    """Return the frame that configurations are timed on, (1, H, W, 3) uint8, padded."""
    size = image.size or _largest_affordable_size(_TIMING_SIZE, loaded)
    sample = fit_sample(images.evaluation[0], size, None)
    return pad_to_multiple(sample.frame[None], image.multiple)


def _largest_affordable_size(size: tuple[int, int], loaded: LoadedCheckpoint) -> tuple[int, int]:
    """Return the largest (height, width) of the same shape that the network is evaluated on."""
    from mirnet_edge.models.macs import count_macs

    multiple = int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    probe = 8 * multiple
    macs_per_pixel = count_macs(loaded.model, probe, probe) / probe**2
    height, width = size
    scale = min(1.0, (_AFFORDABLE_MACS / (macs_per_pixel * height * width)) ** 0.5)
    if scale == 1.0:
        return size
    height, width = (max(_SMALLEST_CUT, int(scale * side)) for side in size)
    return height // multiple * multiple, width // multiple * multiple


def make_graph_inputs(frames: Sequence[np.ndarray], image: ImageContract) -> list[np.ndarray]:
    """Return frames as a graph takes them: padded, with a batch axis, in its type and layout."""
    padded = [pad_to_multiple(frame[None], image.multiple) for frame in frames]
    if image.io == "uint8":
        return padded
    return [batch_from_frames(frame) for frame in padded]
