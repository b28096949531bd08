"""`mirnet restore`: restore images and videos."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mirnet_edge.cli.application import command, print_error, printable, stderr
from mirnet_edge.cli.arguments import (
    BACKENDS_HELP,
    OUTPUT,
    SIZE_METAVAR,
    SPEED,
    WEIGHTS_METAVAR,
    check_bundle,
    check_file,
    check_weights,
    parse_size,
)
from mirnet_edge.cli.restore_pipes import PIPE, PipedFiles, expand_sequences
from mirnet_edge.cli.restore_videos import (
    LocalExecutor,
    RayExecutor,
    VideoComparison,
    VideoJob,
    restore_videos,
    write_comparisons,
)
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.runtime.task_choice import (
    AUTO,
    DEFAULT_TASK,
    TASK_NAMES,
    check_alone,
    check_one_of,
    choose_bundles,
    parse_tasks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mirnet_edge.cli.restore_videos import VideoExecutor
    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.bundle import RunnerChoice
    from mirnet_edge.runtime.inputs import Destination, InputFile
    from mirnet_edge.runtime.runner import Runner
    from mirnet_edge.runtime.temporal_smoothing import TemporalSmoother

_INCOMPLETE = 2
_TASKS = "Task"


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Images (PNG, JPEG, WebP, TIFF, AVIF, HEIC, raw), videos, or folders of them; "
            "frame_%05d.png for numbered images; - for standard input."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE|-",
            help="Folder for the results, which keep their names and the tree of a folder; or the "
            "file of one result; or -, standard output.",
            show_default="NAME.restored.SUFFIX beside each input",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[,TASK...]",
            help=f"What to restore: {', '.join(TASK_NAMES)}; several in their order, with commas "
            f"between them. {AUTO}: what mirnet diagnose finds; a fine image or video is left "
            "alone: copied with --out, else nothing is written.",
            show_default=DEFAULT_TASK,
            rich_help_panel=_TASKS,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            help="From 0, the input, to 1, the restored image: how much of each the result has.",
            rich_help_panel=_TASKS,
        ),
    ] = 1.0,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|shipped:NAME",
            help="In place of --task: a bundle's folder, written by mirnet export, or a bundle of "
            "this package.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar=WEIGHTS_METAVAR,
            help="In place of --task: weights of a MIRNet (PyTorch, Keras, ours), run by PyTorch "
            "as they are; a photo larger than the memory is restored in tiles.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help="Which set of weights of several in the file, by the names around it.",
            show_default="the averaged one (EMA), else the first",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also write before and after side by side: NAME.compare.png of each image, "
            "NAME.compare.mp4 of each video.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace results that are there.", rich_help_panel=OUTPUT),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Skip inputs whose results are there.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="Also restore what is in folders of a folder."),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            help=f"{BACKENDS_HELP}. Several with commas: the first that opens.",
            rich_help_panel=SPEED,
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, bf16, fp16, int8, int8+bf16 or int8+fp16.", rich_help_panel=SPEED
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads to use; with --executor ray, for each video.",
            show_default="the backend's choice; an equal share with ray",
            rich_help_panel=SPEED,
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar=f"{SIZE_METAVAR}|auto",
            help="Restore large images in tiles of this size. auto: the size of the bundle's "
            "graphs, or what --max-memory allows.",
            show_default="whole images, while the memory suffices",
            rich_help_panel=SPEED,
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(
            help="Memory for restoring beside the image, in MiB; sets the tile size.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Of --weights: compile the network for each size of frames, on a GPU in one CUDA "
            "graph. Seconds to minutes at first; for videos and many images of one size.",
            rich_help_panel=SPEED,
        ),
    ] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="local: one video after the other. ray: one task per video, on a Ray cluster or, "
            "without one, on this machine's cores.",
            rich_help_panel=SPEED,
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="A running cluster, for --executor ray; it must see the same paths.",
            rich_help_panel=SPEED,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome of each file as JSON.")
    ] = False,
) -> None:
    """Restore images and videos.

    Each result is written beside its input as NAME.restored.SUFFIX, or where --out says. No file
    is replaced without --overwrite. An input that cannot be restored is named with the reason, the
    others are restored, and the exit code is 2. Videos keep every frame, its timestamp, and the
    sound; the same command resumes an interrupted one.
    """
    tiles = _parse_tile(tile)
    expanded = expand_sequences(inputs)
    pipes = PipedFiles(expanded.paths, out, prints_json=as_json)
    _check_inputs(pipes.inputs)
    _check_tasks(task, bundle, weights)
    from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX
    from mirnet_edge.runtime.bundle import RunnerChoice, affordable_pixels
    from mirnet_edge.runtime.chaining import check_strength
    from mirnet_edge.runtime.inputs import Destination, find_inputs
    from mirnet_edge.runtime.shipped import find_bundle
    from mirnet_edge.video.files.recognition import VIDEO_SUFFIXES, is_video

    check_strength(strength)
    with pipes:
        destination = Destination.parse(
            pipes.out, pipes.inputs, (*FORMAT_OF_SUFFIX, *VIDEO_SUFFIXES)
        )
        template = RunnerChoice(
            bundle=find_bundle(None) if weights is None else None,
            weights=weights, weights_key=weights_key, backend=backend, precision=precision,
            threads=threads, tile=tiles, max_memory_mib=max_memory, compiled=compiled,
            strength=strength,
            whole_pixels=affordable_pixels() if weights is None else None,
        )  # fmt: skip
        found = find_inputs(
            pipes.inputs, why_left_out_of_folder, recursive=recursive, out=destination.folder
        )
        run = _RestorationRun(
            template=template, task=task, bundle=bundle, destination=destination,
            compare=compare, overwrite=overwrite, skip_existing=skip_existing,
            paths=tuple(one.path for one in found.files), sequences=expanded.sequences,
        )  # fmt: skip
        run.check()
        files = run.without_special(found.files)
        videos = [one for one in files if is_video(one.path)]
        images = [one for one in files if one not in videos]
        with run:
            run.batch.add_left_out(found)
            run.restore_images(images)
            run.restore_videos(
                videos,
                RayExecutor(ray_address) if executor == "ray" else LocalExecutor(run.open_runner),
            )
    batch = run.batch
    if as_json:
        print(json.dumps(batch.to_json(run.paths), indent=1))
    if not run.paths:
        print_error("nothing to restore was found")
    elif len(run.paths) > 1 or batch.count("skipped"):
        print_error(batch.summary())
    if batch.count("unchanged"):
        print_error(f"--task NAME restores what is left unchanged: {', '.join(TASK_NAMES)}")
    if batch.count("failed") or not run.paths:
        raise typer.Exit(_INCOMPLETE)


@dataclass(kw_only=True)
class _RestorationRun:
    """One run of the command: its options, its open runners, and the outcome of each file."""

    template: RunnerChoice
    """The choice of every runner but for its bundles."""
    task: str | None
    bundle: str | None
    destination: Destination
    compare: bool
    overwrite: bool
    skip_existing: bool
    paths: tuple[Path, ...]
    """All inputs."""
    sequences: Mapping[Path, tuple[Path, ...]]
    """Numbered images, which are restored as the frames of a video: all, by each of them."""
    _sequence_choices: dict[Path, tuple[RunnerChoice | None, dict[str, Any]]] = field(
        default_factory=dict
    )
    """By the first image of a sequence."""
    _smoothers: dict[Path, TemporalSmoother] = field(default_factory=dict)
    _comparisons: list[tuple[Path, Path, Path | None]] = field(default_factory=list)
    """Those to write of videos: input, comparison, and the result where that is there already."""
    _runners: dict[RunnerChoice, Runner] = field(default_factory=dict)
    _opened: set[RunnerChoice] = field(default_factory=set)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Begin without outcomes."""
        from mirnet_edge.cli.batch import RestorationBatch
        from mirnet_edge.cli.progress import PassProgress
        from mirnet_edge.runtime.inputs import normalized

        self.batch = RestorationBatch(_print_line)
        self._passes = PassProgress(_print_line)
        self._owners = {normalized(path): path for path in self.paths}

    def __enter__(self) -> _RestorationRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Refuse options for which no runner can be made, before anything is written.

        Raises:
            MirnetEdgeError: They are refused.
        """
        choice, _ = self._choose(iter(()))
        self._runner(choice or self.template)  # what auto chooses is known once there are frames

    def without_special(self, files: Sequence[InputFile]) -> list[InputFile]:
        """Return the inputs but for pipes and devices, which are added as failed."""
        from mirnet_edge.runtime.inputs import refuse_special

        usual = []
        for one in files:
            try:
                refuse_special(one.path)
            except OptionError as error:
                self.batch.add_failed(one.path, error)
            else:
                usual.append(one)
        return usual

    def restore_images(self, files: Sequence[InputFile]) -> None:
        """Restore images one after the other, with a progress bar on a terminal."""
        if not files:
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = stderr()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        disable = not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=disable) as progress:
            bar = progress.add_task("images", total=len(files))
            for one in files:
                try:
                    with self._passes.shown(one.path, progress):
                        self._restore_image(one)
                except Exception as error:  # noqa: BLE001  # whatever it is, the others are restored
                    self.batch.add_failed(one.path, error)
                progress.advance(bar)

    def restore_videos(self, files: Sequence[InputFile], execute: VideoExecutor) -> None:
        """Restore videos with an executor."""
        jobs = []
        for one in files:
            try:
                job = self._prepare_video(one)
            except Exception as error:  # noqa: BLE001  # as above
                self.batch.add_failed(one.path, error)
            else:
                jobs += [] if job is None else [job]
        if jobs:
            restore_videos(jobs, execute, self.batch, overwrite=self.overwrite)
        comparisons = [
            VideoComparison(source=source, restored=result, output=output)
            for source, output, restored in self._comparisons
            if (result := restored or self.batch.result_of(source)) is not None
        ]
        if comparisons:
            write_comparisons(comparisons, self.batch)

    def _restore_image(self, one: InputFile) -> None:
        from mirnet_edge.images.files import apply_orientation, read_image, result_name
        from mirnet_edge.runtime.inputs import comparison_of
        from mirnet_edge.runtime.restore import restore_file
        from mirnet_edge.runtime.runner import placement_of

        source = one.path
        output = self.destination.path_of(one, result_name(source))
        comparison = comparison_of(output, source) if self.compare else None
        targets = [output, *([comparison] if comparison else [])]

        def are_there() -> bool:
            return all(target.is_file() for target in targets)

        if self._is_done(source, targets, are_there, overwrite=self.overwrite):
            return
        before = read_image(source)
        numbered = self.sequences.get(source)
        if numbered is None:
            choice, facts = self._choose(iter([apply_orientation(before)]), source)
        else:
            choice, facts = self._choose_for_all(numbered)
        if choice is None and not self.destination.is_named:
            self.batch.add_done(source, [], facts, unchanged=True)
            return
        runner = None if choice is None else self.open_runner(choice)
        if runner is not None and numbered is not None:
            runner = self._smoother(runner, numbered[0])
        done = restore_file(source, runner, output, comparison=comparison, before=before)
        name = "unchanged" if runner is None else runner.name
        placement = "" if runner is None else placement_of(runner)
        line = f"{output}  {done.width}x{done.height}  {done.latency_ms:.1f} ms  {name}"
        if placement and not _is_all_of_backend(name, placement):
            line += f" ({placement})"
        self.batch.add_done(
            source,
            [line],
            {
                "output": str(output),
                "comparison": str(comparison) if comparison else None,
                "configuration": name,
                **({"placement": placement} if placement else {}),
                **facts,
                **self._passes.facts(),
                "width": done.width,
                "height": done.height,
                "latency_ms": round(done.latency_ms, 3),
            },
            unchanged=runner is None,
        )

    def _prepare_video(self, one: InputFile) -> VideoJob | None:
        """Return the job of a video; None where there is nothing left to do."""
        from mirnet_edge.files import replace_file
        from mirnet_edge.runtime.inputs import COMPARED_VIDEO, check_absent, comparison_of
        from mirnet_edge.video.files import muxing
        from mirnet_edge.video.files.encoding import SUFFIXES
        from mirnet_edge.video.files.sampling import sample_frames

        source = one.path
        output = self.destination.path_of(one)
        preferred = output
        if output.suffix.lower() not in SUFFIXES:
            preferred = output.with_suffix(SUFFIXES[0])

        comparison = comparison_of(output, source, COMPARED_VIDEO) if self.compare else None
        restored = muxing.find_restored(source, output.parent, output.name)

        def are_there() -> bool:
            return restored is not None and (comparison is None or comparison.is_file())

        targets = [preferred, *([comparison] if comparison else [])]
        # whether a file would be replaced is known once its container is: `restore_video` checks it
        if self._is_done(source, targets, are_there, overwrite=True):
            muxing.remove_stale_segments(source, output.parent, output.name)
            return None
        if comparison is not None:
            if self.skip_existing and restored is not None:
                self.batch.add_skipped(source, restored)
                self._comparisons.append((source, comparison, restored))
                return None
            if not self.overwrite and not self.skip_existing:
                check_absent(comparison, source)
            self._comparisons.append((source, comparison, None))
        choice, facts = self._choose(sample_frames(source), source)
        if choice is not None:
            choice = replace(choice, whole_pixels=None)  # the same for all frames of all runs
            return VideoJob(path=source, output=output, choice=choice, facts=facts)
        if not self.destination.is_named:
            self.batch.add_done(source, [], facts, unchanged=True)
            return None
        with replace_file(output) as part:
            shutil.copyfile(source, part)
        facts = {"output": str(output), "configuration": "unchanged", **facts}
        self.batch.add_done(source, [f"{output}  unchanged"], facts, unchanged=True)
        return None

    def _is_done(
        self,
        source: Path,
        targets: Sequence[Path],
        are_there: Callable[[], bool],
        *,
        overwrite: bool,
    ) -> bool:
        """Return whether an input's results are there and stay; else reserve their places.

        Raises:
            OptionError: A result would replace an input, another result, or a file that is there.
        """
        from mirnet_edge.runtime.inputs import check_absent, check_output, normalized

        for target in targets:
            check_output(target, source, self._owners)
        is_skipped = self.skip_existing and are_there()
        if not is_skipped and not overwrite:
            for target in targets:
                check_absent(target, source)
        if is_skipped:
            self.batch.add_skipped(source, targets[0])
            return True
        self._owners |= {normalized(target): source for target in targets}
        return False

    def _choose(
        self, frames: Iterator[Frame], source: Path | None = None
    ) -> tuple[RunnerChoice | None, dict[str, Any]]:
        """Return the choice of a runner for an input, None for none, and its facts for `--json`."""
        if self.template.weights is not None:
            return self.template, {}
        bundles, choice = choose_bundles(self.task, self.bundle, frames)
        facts: dict[str, Any] = {}
        if choice is not None:
            facts["tasks"] = list(choice.tasks)
        if choice is not None and choice.line and source is not None:
            _print_line(f"{source}: {choice.line}")
            facts["found"] = choice.line
        if not bundles:
            return None, facts
        return replace(self.template, bundle=bundles[0], then=bundles[1:]), facts

    def _choose_for_all(
        self, numbered: Sequence[Path]
    ) -> tuple[RunnerChoice | None, dict[str, Any]]:
        """Return one choice for numbered images, by some of them, as `_choose` does."""
        from mirnet_edge.video.files.sampling import LARGEST_COUNT

        first = numbered[0]
        if first not in self._sequence_choices:
            step = -(-len(numbered) // LARGEST_COUNT)
            self._sequence_choices[first] = self._choose(_readable(numbered[::step]), first)
        choice, facts = self._sequence_choices[first]
        return choice, dict(facts)

    def _smoother(self, runner: Runner, first: Path) -> Runner:
        """Return the runner with the temporal smoothing of one sequence, open until the end."""
        from mirnet_edge.runtime.temporal_smoothing import smooth_over_time

        if first not in self._smoothers:
            self._smoothers[first] = self._stack.enter_context(smooth_over_time(runner))
        return self._smoothers[first]

    def _runner(self, choice: RunnerChoice) -> Runner:
        """Return the runner of a choice, the same for each file; open or not."""
        if choice not in self._runners:
            runner = self._runners[choice] = choice.runner()
            if choice.weights is not None:
                self._watch(runner)
        return self._runners[choice]

    def _watch(self, runner: Runner) -> None:
        """Show what a runner of weights is about to do, and how far it is."""
        from mirnet_edge.runtime.weights import as_weights_runner

        weights = as_weights_runner(runner)
        if weights is not None:
            weights.observer = self._passes
            if weights.notice:
                _print_line(weights.notice)

    def open_runner(self, choice: RunnerChoice) -> Runner:
        """Return the runner of a choice, open until the run ends."""
        runner = self._runner(choice)
        if choice not in self._opened:
            self._stack.enter_context(runner)
            self._opened.add(choice)
        return runner


def _readable(images: Sequence[Path]) -> Iterator[Frame]:
    """Yield images as they are shown, but for those that cannot be read."""
    from mirnet_edge.images.files import apply_orientation, read_image

    for path in images:
        with suppress(ImageError):
            yield apply_orientation(read_image(path))


def _is_all_of_backend(configuration: str, placement: str) -> bool:
    """Return whether a placement says no more than the configuration's name: a processor's."""
    from mirnet_edge.runtime.backends import find_backend

    return placement == find_backend(configuration.partition(":")[0]).provider


def _print_line(line: str) -> None:
    """Print a line on stderr as it is, above a progress bar where one is shown."""
    stderr().print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def why_left_out_of_folder(path: Path) -> str | None:
    """Return why a file of a folder is not restored; None for images and videos."""
    from mirnet_edge.dependencies import advice, available
    from mirnet_edge.images.kinds import why_left_out
    from mirnet_edge.video.files.recognition import is_video

    if not is_video(path):
        return why_left_out(path)
    if available("av"):
        return None
    return f"a video, which needs the package av: {advice('av')}"


def _check_inputs(inputs: Sequence[Path]) -> None:
    """Refuse inputs none of which exists; single ones that do not are listed later.

    Raises:
        OptionError: None exists.
    """
    if not any(path.exists() or path == Path(PIPE) for path in inputs):
        check_file(inputs[0], "the input", "an image, a folder of images or a video")


def _check_tasks(task: str | None, bundle: str | None, weights: str | None) -> None:
    """Refuse an unknown task, bundle or weights, and two of them together.

    Raises:
        OptionError: An unknown task, or two of them.
        BundleError: It is no bundle.
        CheckpointError: There is no such weights file.
    """
    if weights is not None:
        check_alone(weights, task, bundle)
        check_weights(weights)
    check_one_of(task, bundle)
    if task is not None and task.strip() != AUTO:
        parse_tasks(task)
    if bundle is not None:
        check_bundle(bundle)


def _parse_tile(text: str | None) -> tuple[int, int] | Literal["auto"] | None:
    if text is None or text == "auto":
        return None if text is None else "auto"
    return parse_size(text, "--tile")


main = command(
    restore,
    examples=(
        "restore photo.jpg",
        "restore scan.tif --task old-photo,super-resolution --strength 0.8",
        "restore holiday/ --recursive --out restored",
        "restore photo.jpg --weights mirnet.pth",
        "restore night.mp4 --out bright.mp4",
    ),
    former_options={"--engine": "--executor"},
)
