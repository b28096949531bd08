"""Checks of what was typed that need no heavy library: they precede the imports of a command.

Each raises the error that the library would raise seconds later.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from mirnet_edge.cli.application import find_similar, suggest
from mirnet_edge.errors import (
    BundleError,
    CalibrationError,
    CheckpointError,
    MirnetEdgeError,
    OptionError,
)
from mirnet_edge.runtime.backends import backend_names
from mirnet_edge.runtime.shipped import PREFIX, find_bundle, list_shipped_bundles

SHIPPED = PREFIX

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
WEIGHTS_METAVAR = "FILE|shipped:NAME"
SIZE_METAVAR = "WIDTHxHEIGHT"
CALIBRATION_METAVAR = "DIR|PRESET"
BACKENDS_HELP = f"auto, {', '.join(backend_names())}"
RUNTIME_HELP = (
    "onnxruntime-web as npm pack writes it, where this machine does not reach npm's registry."
)
INPUT, OUTPUT, MODEL, QUALITY, SPEED, TRAINING, DEVICE = (
    "Input", "Output", "Model", "Quality", "Speed", "Training", "Device",
)  # fmt: skip
"""Panels of the commands' help."""

WeightsKeyOption = Annotated[
    str | None,
    typer.Option(
        help="Which set of weights of several in the file, by the names around it.",
        show_default="the averaged one (EMA), else the first",
    ),
]
TrainingDeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Device to train on.", rich_help_panel=DEVICE),
]
WorkersOption = Annotated[
    int, typer.Option(help="Threads that prepare batches.", rich_help_panel=DEVICE)
]

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".h5", ".keras")
_MANIFEST = "manifest.json"
_CAMERAS = ("csi", "rpicam", "synthetic", "browser")


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Return (height, width) of a size that was written WIDTHxHEIGHT after an option.

    Raises:
        OptionError: Not written so, or not positive.
    """
    found = re.fullmatch(r"(-?\d+)[x×](-?\d+)", text)
    if not found:
        raise OptionError(f"{option} must be {SIZE_METAVAR} like 640x480, found {text!r}")
    width, height = int(found[1]), int(found[2])
    if min(height, width) < 1:
        raise OptionError(f"{option} must be positive, found {text}; try 640x480")
    return height, width


def check_positive(value: float | None, option: str) -> None:
    """Refuse 0 and less; None is an option that was left out.

    Raises:
        OptionError: It is not above 0.
    """
    if value is not None and not value > 0:
        raise OptionError(f"{option} must be above 0, found {value:g}")


def check_weights(name_or_path: str | None) -> None:
    """Refuse weights that are not there; None is an option that was left out.

    Raises:
        CheckpointError: Neither shipped weights nor a weights file.
    """
    if name_or_path is None:
        return
    if name_or_path.startswith(SHIPPED):
        names = sorted(SHIPPED + file.stem for file in WEIGHTS_FOLDER.glob("*.safetensors"))
        if name_or_path not in names:
            hint = suggest(name_or_path, names) or " Choose one of these or give a file"
            raise CheckpointError(
                f"the package ships no weights {name_or_path!r}; it ships: "
                f"{', '.join(names)}.{hint}"
            )
        return
    path = Path(name_or_path)
    expected = f"expected a weights file ({', '.join(_WEIGHTS_SUFFIXES)})"
    if path.is_dir():
        from mirnet_edge.checkpoints.keras_paths import is_keras

        if is_keras(path):
            return
        raise CheckpointError(f"{path} is a folder; {expected}. Name a file in it")
    if not path.is_file():
        near = _suggest_file(path)
        raise CheckpointError(f"{path} does not exist; {expected}.{near or ' Check the path'}")
    from mirnet_edge.checkpoints.archives import read_layout
    from mirnet_edge.checkpoints.keras_paths import is_keras

    # what claims more than it holds is refused before torch is imported
    if is_keras(path):
        from mirnet_edge.checkpoints.keras_files import check_keras

        check_keras(path)
    else:
        read_layout(path)


def check_folder(folder: Path | None, option: str, expected: str = "one of images") -> None:
    """Refuse a folder that is not there; None is an option that was left out.

    Raises:
        OptionError: It is no folder.
    """
    if folder is not None and not folder.is_dir():
        raise OptionError(
            f"{option} {folder} is not a folder; expected {expected}.{_suggest_file(folder)}"
        )


def check_calibration(calibration: str | None) -> None:
    """Refuse a calibration set that is not there; None is an option that was left out.

    Raises:
        CalibrationError: Neither a folder, a file nor a calibration preset.
    """
    if calibration is not None and not Path(calibration).exists():
        from mirnet_edge.calibration.presets import list_presets, read_preset

        try:
            read_preset(calibration)
        except CalibrationError as error:
            hint = _suggest_file(Path(calibration)) or suggest(calibration, list_presets())
            raise CalibrationError(f"{error}.{hint}" if hint else str(error)) from error


def check_file(path: Path | None, option: str, expected: str) -> None:
    """Refuse a file that is not there; None is an option that was left out.

    Raises:
        OptionError: It is no file.
    """
    if path is not None and not path.is_file():
        raise OptionError(
            f"{option} {path} does not exist; expected {expected}.{_suggest_file(path)}"
        )


def check_bundle(bundle: str | Path) -> None:
    """Refuse what is neither a folder with a manifest nor `shipped:NAME`.

    Raises:
        BundleError: It is no bundle.
    """
    try:
        folder = find_bundle(bundle)
    except BundleError as error:
        names = [SHIPPED + name for name in list_shipped_bundles()]
        raise BundleError(f"{error}.{suggest(str(bundle), names)}") from error
    if not (folder / _MANIFEST).is_file():
        found = "it holds no manifest.json" if folder.is_dir() else "there is no such folder"
        raise BundleError(
            f"{folder} is not a bundle: {found}. Give the folder that mirnet export wrote."
            f"{_suggest_file(folder)}"
        )


def check_source(source: str) -> None:
    """Refuse a video file or folder that is not there; cameras and addresses are opened later.

    Raises:
        OptionError: It is not.
    """
    if source.isdecimal() or ":" in source or source in _CAMERAS or Path(source).exists():
        return
    raise OptionError(
        f"--source {source} does not exist; expected a camera's number, a video file, or what "
        f"--help lists.{_suggest_file(Path(source))}"
    )


def check_output_folder(folder: Path) -> None:
    """Refuse a folder for results that is a file, or lies below one.

    Raises:
        MirnetEdgeError: It is.
    """
    if folder.exists() and not folder.is_dir():
        raise MirnetEdgeError(f"{folder} is a file; --out must be a folder. Choose another")
    for parent in folder.parents:
        if parent.exists() and not parent.is_dir():
            raise MirnetEdgeError(
                f"{parent} cannot be written: it is a file; --out must be below folders. "
                "Choose another"
            )


def _suggest_file(path: Path) -> str:
    """Return what to name instead, where the same folder holds something of a similar name."""
    names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    found = [str(path.with_name(name)) for name in find_similar(path.name, names)[:1]]
    return f" Did you mean {found[0]}?" if found else ""
