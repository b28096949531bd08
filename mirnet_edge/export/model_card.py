"""Write a bundle as a folder for a model hub: its files, a model card and golden outputs.

The card (`README.md`, with the metadata that Hugging Face reads) says what the manifest says: the
network, its figures and where they were measured, and its terms. The golden outputs are frames with
what the bundle makes of them in fp32, so that whoever downloads it can compare: weights that were
uploaded wrongly restore something, and nobody sees what is missing.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import BundleError, OptionError
from mirnet_edge.files import replace_folder, write_atomically
from mirnet_edge.images.contract import padded_size, size_text
from mirnet_edge.manifest import FILE_NAME, read_manifest, verify_path
from mirnet_edge.metrics import psnr
from mirnet_edge.runtime.bundle import open_bundle
from mirnet_edge.runtime.machine_configurations import make_scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import BoundFile, Manifest

CARD, GOLDEN = "README.md", "golden.npz"
LEAST_DB = 50.0
"""From here on golden outputs are met: other processors' fp32 differs in a level here or there."""
_REFERENCE = ("onnxruntime", "fp32")
_SIZES = ((64, 96), (90, 61))
"""(height, width) of the golden frames of a bundle for any size; the second one is padded."""


@dataclass(frozen=True)
class GoldenCheck:
    """How far the outputs here are from the golden ones, in dB, by golden frame."""

    configuration: str
    found_db: dict[str, float]

    @property
    def is_met(self) -> bool:
        """Return whether all are near enough."""
        return all(one >= LEAST_DB for one in self.found_db.values())


def write_model_card(
    bundle: Path, out: Path, *, license_name: str | None = None, title: str | None = None
) -> list[Path]:
    """Write a folder for a model hub: the bundle's files, a card and golden outputs.

    Args:
        bundle: Its folder.
        out: The folder; replaced as a whole where it holds a former one.
        license_name: Of the weights, as the hub spells it (apache-2.0); None for that of shipped
            weights, and `other` for yours.
        title: The card's title; None for one from the network and its task.

    Returns:
        The files written.

    Raises:
        BundleError: A file of the bundle has changed.
        OptionError: The folder holds something else.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / GOLDEN).is_file():
        raise OptionError(
            f"--out {out} holds files that are no model card; expected a former one, or an empty "
            "or new folder. Choose another"
        )
    manifest = read_manifest(bundle)
    golden = _restore_golden(bundle, manifest)
    with replace_folder(out) as folder:
        for entry in list_files(manifest):
            # of the package's bundles, which lie without their weights, the graphs alone
            if (bundle / entry.file).is_file():
                shutil.copyfile(verify_path(bundle, entry), folder / entry.file)
        shutil.copyfile(bundle / FILE_NAME, folder / FILE_NAME)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **golden)
        write_atomically(folder / GOLDEN, buffer.getvalue())
        text = "\n".join(_card(manifest, folder, license_name, title)) + "\n"
        write_atomically(folder / CARD, text.encode())
    return sorted(out.iterdir())


def check_golden(folder: Path, backend: str = "auto", precision: str = "auto") -> GoldenCheck:
    """Restore the golden frames of a folder on this machine and compare.

    Args:
        folder: What `write_model_card` wrote, downloaded.
        backend: As for `open_bundle`.
        precision: As for `open_bundle`; in other precisions than fp32 the drop is seen too.

    Raises:
        BundleError: There are no golden outputs, they are damaged, or the bundle is.
    """
    golden = _read_golden(folder)
    found = {}
    with open_bundle(folder, backend, precision) as runner:
        for name, frame in golden.items():
            if name.startswith("input"):
                expected = golden[name.replace("input", "output")]
                found[name] = float(psnr(runner.run(frame), expected)[0])
        configuration = runner.name
    return GoldenCheck(configuration, found)


def list_files(manifest: Manifest) -> list[BoundFile]:
    """Return the files that a manifest binds, without engines: those fit one machine."""
    return [manifest.model.weights, *(one.onnx for one in manifest.graphs if one.kept)]


def _restore_golden(bundle: Path, manifest: Manifest) -> dict[str, Frames]:
    sizes = (manifest.image.size,) if manifest.image.size else _SIZES
    golden: dict[str, Frames] = {}
    with open_bundle(bundle, *_REFERENCE) as runner:
        for place, size in enumerate(sizes):
            frame = make_scene(size)
            golden[f"input_{place}"] = frame
            golden[f"output_{place}"] = runner.run(frame)
    return golden


def _read_golden(folder: Path) -> dict[str, Frames]:
    path = folder / GOLDEN
    if not path.is_file():
        raise BundleError(
            f"{folder} has no {GOLDEN}; expected a folder that mirnet card wrote. Write it again"
        )
    try:
        # from memory: numpy leaves a damaged file open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            golden = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is damaged ({error}); download it again") from error
    inputs = [name for name in golden if name.startswith("input_")]
    if not inputs or any(name.replace("input", "output") not in golden for name in inputs):
        raise BundleError(f"{path} lacks frames or their outputs; download it again")
    return golden


_TASKS = {"low-light": "low light", "super-resolution": "super-resolution"}


def _card(
    manifest: Manifest, folder: Path, license_name: str | None, title: str | None
) -> Iterator[str]:
    """Yield the lines of the card."""
    model, image = manifest.model, manifest.image
    task = _TASKS.get(model.task, model.task)
    yield from _metadata(manifest, license_name)
    yield f"# {title or f'{model.architecture} for {task}'}"
    yield ""
    yield (
        f"{model.architecture}, {model.parameters / 1e6:.3g} M parameters, "
        f"{model.macs_640x480 / 1e9:.3g} GMACs for a frame of 640x480"
        f"{f', results {image.scale} times as high and wide' if image.scale > 1 else ''}. Made "
        f"with mirnet-edge {manifest.tools.get('mirnet-edge', 'of an unknown version')} on "
        f"{manifest.created[:10]}."
    )
    if manifest.notice:
        yield ""
        yield manifest.notice
    yield ""
    yield "## Use"
    yield ""
    yield "```sh"
    yield "pip install mirnet-edge"
    yield "mirnet restore photo.jpg --bundle FOLDER --out restored.jpg"
    yield "mirnet card FOLDER --check    # does it restore here what it restored where it was made?"
    yield "```"
    yield ""
    yield "```python"
    yield "import mirnet_edge"
    yield ""
    yield 'with mirnet_edge.open_bundle("FOLDER") as runner:'
    yield "    restored = runner.run(frames)  # (N, H, W, 3) uint8 RGB"
    yield "```"
    yield ""
    yield from _input_lines(manifest)
    yield ""
    yield "## Measured"
    yield ""
    yield from _table(manifest)
    yield ""
    yield from _conditions(manifest)
    yield ""
    yield "## Files"
    yield ""
    yield "| file | bytes | SHA-256 |"
    yield "|---|---|---|"
    for entry in list_files(manifest):
        if (folder / entry.file).is_file():
            yield f"| `{entry.file}` | {entry.size_bytes:,} | `{entry.sha256}` |"
    yield ""
    yield (
        f"`{GOLDEN}` holds frames (`input_0`, ...) and what the fp32 graph makes of them "
        f"(`output_0`, ...), 8-bit RGB: another program that runs the graph should be within a "
        f"level of them, and at least {LEAST_DB:g} dB near."
    )


def _metadata(manifest: Manifest, license_name: str | None) -> Iterator[str]:
    is_ours = manifest.model.source.startswith("shipped:")
    yield "---"
    yield f"license: {json.dumps(license_name or ('apache-2.0' if is_ours else 'other'))}"
    yield "library_name: mirnet-edge"
    yield "pipeline_tag: image-to-image"
    yield "tags:"
    for tag in ("image-restoration", manifest.model.task, "onnx", "onnxruntime", "openvino"):
        yield f"- {json.dumps(tag)}"
    yield "---"
    yield ""


def _input_lines(manifest: Manifest) -> Iterator[str]:
    image = manifest.image
    what = "uint8 (N, H, W, 3) RGB" if image.io == "uint8" else "float32 (N, 3, H, W) RGB in [0, 1]"
    if image.size is None:
        size = f"sides that are multiples of {image.multiple}; mirnet-edge pads by reflection"
    else:
        height, width = padded_size(*image.size, image.multiple)
        size = f"{width}x{height} alone"
    yield f"The graphs take and give {what}, of {size}."
    for graph in manifest.graphs:
        if graph.kept and graph.size is not None:
            yield f"`{graph.onnx.file}` takes {size_text(*graph.size)} alone."


def _table(manifest: Manifest) -> Iterator[str]:
    yield "| configuration | PSNR to fp32 | PSNR to ground truth | ms | x fp32 | quality gate |"
    yield "|---|---|---|---|---|---|"
    for one in manifest.configurations:
        latency = one.latency
        ms = (
            "not measured"
            if latency is None
            else f"{latency.p50_ms:.1f} (p95 {latency.p95_ms:.1f})"
        )
        ratio = "" if latency is None else f"{latency.ratio_to_fp32:.2f}"
        to_fp32 = "" if one.against_fp32 is None else _db(one.against_fp32.mean_db)
        truth = "" if one.against_truth is None else _db(one.against_truth.mean_db)
        verdict = "accepted" if one.accepted else one.reason.replace("|", "/")
        yield f"| `{one.name}` | {to_fp32} | {truth} | {ms} | {ratio} | {verdict} |"


def _db(value: float | None) -> str:
    return "the same" if value is None else f"{value:.2f} dB"


def _conditions(manifest: Manifest) -> Iterator[str]:
    gate, machine = manifest.gate, manifest.machine
    timed = [one.latency for one in manifest.configurations if one.latency]
    size = f", frames of {timed[0].width}x{timed[0].height}" if timed else ""
    yield (
        f"Quality on {gate.images} images ({gate.source}), {gate.references} with a ground truth; "
        f"a precision may lose {gate.max_drop_db:g} dB. Latency on {machine.processor}, "
        f"{machine.cores} cores{size}, interleaved runs; other machines differ."
    )
    if manifest.calibration is not None:
        yield (
            f"INT8 was calibrated on {manifest.calibration.images} images: "
            f"{manifest.calibration.source}."
        )
