"""Open what the stages of an export share: network, image contract, calibration set, options."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mirnet_edge.calibration.presets import open_set
from mirnet_edge.calibration.sets import builtin_set, cut_many, fit_sample, take_evenly
from mirnet_edge.checkpoints.cards import assumed_task
from mirnet_edge.errors import CalibrationError, OptionError
from mirnet_edge.export.stages import OnStep, Recall, make_anew
from mirnet_edge.images.contract import batch_from_frames, pad_to_multiple
from mirnet_edge.manifest import ImageContract

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from torch import nn

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
# Images are evaluated and timed in a dozen configurations. A network of more MACs than this for a
# frame of _TIMING_SIZE is heavy: it is calibrated and evaluated on cuts, as many as are affordable.
# The full MIRNet has 2.2e12, half a minute for one frame on two cores.
_AFFORDABLE_MACS = 128e9
# Of a heavy network: seconds of float passes, as the network runs in torch, for calibration and for
# one configuration of the quality gate, and seconds of the timed rounds of all.
_CALIBRATION_S, _EVALUATION_S, _TIMING_S = 60.0, 40.0, 45.0
_FEWEST_CALIBRATION, _FEWEST_EVALUATION = 6, 4
# Sides of cuts.
_SMALLEST_CUT, _LARGEST_CUT, _STEP = 128, 256, 32
# While calibrating, NNCF holds twice the activations of one cut: 2.6 GB of Keras' full MIRNet at
# 128x128. So many bytes of them a cut may have, down to a smallest side; an image gives several
# cuts then (docs/decisions/031-memory-of-exports.md). What is evaluated may be larger.
_CALIBRATION_BYTES = 384 << 20
_SMALLEST_CALIBRATION_CUT, _CALIBRATION_STEP = 64, 16
_MOST_CUTS = 4  # of one image
_ROUNDS, _FEWEST_ROUNDS = 9, 3  # of light and of heavy networks
# (height, width) of the strip that the reach is measured on, in the middle of which it is cut.
_REACH_STRIP = (64, 192)
_INNER = 64  # pixels of a cut, across, that no border reaches


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """How many images, of which size, an export calibrates, evaluates and times on."""

    largest: tuple[int, int] = _LARGEST_SAMPLE
    """(height, width) that evaluation images are cut to; smaller ones stay as they are."""
    largest_calibration: tuple[int, int] = _LARGEST_SAMPLE
    """The same of calibration images."""
    timing: tuple[int, int] = _TIMING_SIZE
    calibration: int | None = None
    """Calibration images at most; None for all."""
    cuts: int = 1
    """Of each calibration image, at most."""
    evaluation: int | None = None
    """Evaluation images at most; None for all."""
    timing_s: float = math.inf
    """Seconds that the timed rounds may take."""
    reach: int | None = None
    """Distance from a cut, in pixels, within which the output differs from that of the uncut image
    given the same global context; None where images are not cut for their cost."""

    @property
    def is_heavy(self) -> bool:
        """Return whether the network's cost limits how much is measured."""
        return not math.isinf(self.timing_s)


def plan_samples(
    loaded: LoadedCheckpoint,
    image: ImageContract,
    images: CalibrationSet,
    on_stage: Callable[[str], None] = lambda what: None,
) -> SamplePlan:
    """Return the images that a network can afford: by its MACs, and if it is heavy as measured.

    Args:
        loaded: The network.
        image: Its graphs' contract: a fixed size is kept whatever it costs, on fewer images.
        images: The calibration set, at its own sizes.
        on_stage: Called with a few words where something is measured.
    """
    from mirnet_edge.export.onnx_graph import to_context_anchored_form
    from mirnet_edge.models.reach import measure_reach

    network, multiple = loaded.model, int(loaded.model.multiple)  # type: ignore[arg-type]  # every network states it
    macs_per_pixel = _count_macs_per_pixel(network)
    if macs_per_pixel * math.prod(_TIMING_SIZE) <= _AFFORDABLE_MACS:
        largest = _scale_to_affordable(_LARGEST_SAMPLE, macs_per_pixel, multiple)
        return SamplePlan(largest=largest, largest_calibration=largest)
    on_stage("measure how far the network sees, and its cost")
    seconds_per_pixel = _measure_seconds_per_pixel(network, multiple)
    if image.size is not None:
        seconds = seconds_per_pixel * math.prod(image.size)
        return SamplePlan(
            timing=image.size,
            calibration=max(_FEWEST_CALIBRATION, int(_CALIBRATION_S / seconds)),
            evaluation=max(_FEWEST_EVALUATION, int(_EVALUATION_S / seconds)),
            timing_s=_TIMING_S,
        )
    frame = images.evaluation[0].frame[None]
    reach = measure_reach(
        to_context_anchored_form(network),
        [frame],
        strip=_REACH_STRIP,
        cuts=(_REACH_STRIP[1] // 2,),
        both_ways=False,
    )
    small = min(_SMALLEST_CUT, _affordable_side(seconds_per_pixel))
    side = min(_LARGEST_CUT, max(_SMALLEST_CUT, 2 * reach + _INNER))
    side = max(small, min(side, _affordable_side(seconds_per_pixel)))
    step = max(_STEP, multiple)
    small, side = (max(step, one // step * step) for one in (small, side))
    cut = min(small, _calibration_side(network, multiple))
    affordable = int(_CALIBRATION_S / (seconds_per_pixel * cut**2))
    return SamplePlan(
        largest=(side, side),
        largest_calibration=(cut, cut),
        timing=(small, small),
        calibration=max(_FEWEST_CALIBRATION, affordable),
        cuts=max(1, min(_MOST_CUTS, affordable // len(images.calibration))),
        evaluation=max(_FEWEST_EVALUATION, int(_EVALUATION_S / (seconds_per_pixel * side**2))),
        timing_s=_TIMING_S,
        reach=reach,
    )


def _affordable_side(seconds_per_pixel: float) -> int:
    """Return the side of the squares that the fewest images for evaluation may have."""
    return int((_EVALUATION_S / _FEWEST_EVALUATION / seconds_per_pixel) ** 0.5)


def _calibration_side(network: nn.Module, multiple: int) -> int:
    """Return the side of the squares whose activations a quantizer may hold."""
    import torch

    from mirnet_edge.models.inference_form import to_inference_form
    from mirnet_edge.models.memory import convolution_bytes

    probe = 8 * multiple
    held = convolution_bytes(
        to_inference_form(network), torch.empty(1, 3, probe, probe, device="meta")
    )
    step = max(_CALIBRATION_STEP, multiple)
    side = int((_CALIBRATION_BYTES * probe**2 / held) ** 0.5) // step * step
    return max(_SMALLEST_CALIBRATION_CUT, step, side)


def _measure_seconds_per_pixel(network: nn.Module, multiple: int) -> float:
    """Return the seconds of a float pass for each pixel, on a machine that does nothing else."""
    import torch

    side = -(-96 // multiple) * multiple
    batch, threads, taken = torch.rand(1, 3, side, side), torch.get_num_threads(), []
    # processor time of one thread: beside other programs, several wait for each other busily
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(2):
                started = time.process_time()
                network(batch)
                taken.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(taken) / threads / side**2


def _count_macs_per_pixel(network: nn.Module) -> float:
    from mirnet_edge.models.macs import count_macs

    multiple = int(network.multiple)  # type: ignore[arg-type]  # every network states it
    probe = 8 * multiple
    return count_macs(network, probe, probe) / probe**2


def _scale_to_affordable(
    size: tuple[int, int], macs_per_pixel: float, multiple: int
) -> tuple[int, int]:
    """Return the largest (height, width) of the same shape that the network is evaluated on."""
    height, width = size
    scale = min(1.0, (_AFFORDABLE_MACS / (macs_per_pixel * height * width)) ** 0.5)
    if scale == 1.0:
        return size
    height, width = (max(_SMALLEST_CUT, int(scale * side)) for side in size)
    return height // multiple * multiple, width // multiple * multiple


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
    plan: SamplePlan
    """How those were chosen."""
    calibration_images: int
    """How many images those to calibrate on were cut from."""
    timing_frame: Frames
    """(1, H, W, 3) uint8, padded: the frame that configurations are timed on."""
    recall: Recall = make_anew
    """Returns what a former, killed export with the same inputs made."""
    on_stage: Callable[[str], None] = lambda what: None
    """Called with a few words as each stage begins."""
    on_step: OnStep = lambda done, total: None
    """Called with the steps done, and those of all, within a stage that has steps."""

    @property
    def weights(self) -> Path:
        """Return the path of the bundle's weights file."""
        return self.folder / "weights.safetensors"

    @property
    def samples(self) -> list[np.ndarray]:
        """Return the calibration images as a graph takes them."""
        return make_graph_inputs([sample.frame for sample in self.images.calibration], self.image)

    @property
    def calibration_text(self) -> str:
        """Return what an export calibrates on in words: 6 images, or 24 cuts of 6 images."""
        cuts, images = len(self.images.calibration), self.calibration_images
        return f"{images} images" if cuts == images else f"{cuts} cuts of {images} images"

    @property
    def rounds(self) -> int:
        """Return how often a search times each of its graphs."""
        return _FEWEST_ROUNDS if self.plan.is_heavy else _ROUNDS

    def path(self, file: str) -> Path:
        """Return the path of a file of the bundle."""
        return self.folder / file


@dataclass(frozen=True, kw_only=True)
class ExportSources:
    """What an export begins with: the network, its contract, and the images as they are."""

    options: ExportOptions
    loaded: LoadedCheckpoint
    image: ImageContract
    images: CalibrationSet


def open_sources(
    options: ExportOptions, on_stage: Callable[[str], None] = lambda what: None
) -> ExportSources:
    """Open weights and images of an export.

    Args:
        options: What to export.
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
    images = open_calibration_set(options, loaded, image)
    return ExportSources(options=options, loaded=loaded, image=image, images=images)


def open_workspace(
    options: ExportOptions, folder: Path, on_stage: Callable[[str], None] = lambda what: None
) -> Workspace:
    """Open weights and images, and choose the images that the network can afford.

    Args:
        options: What to export.
        folder: Where the files of the export go.
        on_stage: Called with a few words as each stage begins.

    Raises:
        CheckpointError: The weights are not usable.
        CalibrationError: The calibration set is not usable.
    """
    sources = open_sources(options, on_stage)
    plan = plan_samples(sources.loaded, sources.image, sources.images, on_stage)
    return make_workspace(sources, plan, folder, on_stage=on_stage)


def make_workspace(
    sources: ExportSources,
    plan: SamplePlan,
    folder: Path,
    *,
    recall: Recall = make_anew,
    on_stage: Callable[[str], None] = lambda what: None,
    on_step: OnStep = lambda done, total: None,
) -> Workspace:
    """Return the workspace of opened sources, with the images of a plan."""
    images = fit_calibration_set(sources.images, sources.image, plan)
    return Workspace(
        folder=folder,
        options=sources.options,
        loaded=sources.loaded,
        image=sources.image,
        images=images,
        plan=plan,
        calibration_images=len(take_evenly(list(sources.images.calibration), plan.calibration)),
        timing_frame=make_timing_frame(images, sources.image, plan),
        recall=recall,
        on_stage=on_stage,
        on_step=on_step,
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
    task = assumed_task(loaded.card.task)
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
    images: CalibrationSet, image: ImageContract, plan: SamplePlan
) -> CalibrationSet:
    """Return the images of a plan, at the graphs' fixed size or cut to the plan's."""
    calibration = take_evenly(list(images.calibration), plan.calibration)
    if plan.cuts > 1:
        calibration = [
            cut for one in calibration for cut in cut_many(one, plan.largest_calibration, plan.cuts)
        ]
    evaluation = take_evenly(list(images.evaluation), plan.evaluation)
    return replace(
        images,
        calibration=tuple(
            fit_sample(one, image.size, plan.largest_calibration) for one in calibration
        ),
        evaluation=tuple(fit_sample(one, image.size, plan.largest) for one in evaluation),
    )


def make_timing_frame(images: CalibrationSet, image: ImageContract, plan: SamplePlan) -> Frames:
    """Return the frame that configurations are timed on, (1, H, W, 3) uint8, padded."""
    sample = fit_sample(images.evaluation[0], image.size or plan.timing, None)
    return pad_to_multiple(sample.frame[None], image.multiple)


def make_graph_inputs(frames: Sequence[np.ndarray], image: ImageContract) -> list[np.ndarray]:
    """Return frames as a graph takes them: padded, with a batch axis, in its type and layout."""
    padded = [pad_to_multiple(frame[None], image.multiple) for frame in frames]
    if image.io == "uint8":
        return padded
    return [batch_from_frames(frame) for frame in padded]
