"""Damaged files at every parser: each ends in its own error, in one line and in time, or is read.

Seeds are damaged by hypothesis. `MIRNET_FUZZ_EXAMPLES=20000 pytest tests/fuzz` looks longer; an
input that fails goes into `crashes/`, named PARSER-WHAT, and is tried first in every run.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mirnet_edge.checkpoints.reading import read_checkpoint
from mirnet_edge.errors import BundleError, CheckpointError, GraphError, ImageError, OptionError
from mirnet_edge.files import read_toml
from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.manifest import FILE_NAME, read_manifest
from mirnet_edge.onnx_wire import external_files, float_form
from mirnet_edge.training.recipe import RecipeFile

_CRASHES = Path(__file__).parent / "crashes"
_EXAMPLES = int(os.environ.get("MIRNET_FUZZ_EXAMPLES", "60"))
_MOST_S = 5.0
_INTERESTING = [
    b"\0", b"\xff", b"\x7f", b"\xff" * 4, b"\0\0\0\x80", b"\xff" * 8, b"q\0", b"h\0",
]  # fmt: skip

# a damage: what is done, where (as a share of the length), how much, and with what
_DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut", "swap"]),
        st.floats(0, 1),
        st.integers(1, 40),
        st.one_of(st.sampled_from(_INTERESTING), st.binary(min_size=1, max_size=12)),
    ),
    min_size=1,
    max_size=6,
)


def damage(content, damages):
    """Return bytes changed at a few places."""
    changed = bytearray(content)
    for what, where, length, value in damages:
        place = int(where * len(changed))
        if what == "set":
            changed[place : place + len(value)] = value
        elif what == "insert":
            changed[place:place] = value
        elif what == "delete":
            del changed[place : place + length]
        elif what == "repeat":
            changed[place:place] = bytes(changed[place : place + length]) * 3
        elif what == "cut":
            del changed[place:]
        else:
            other = len(changed) - place
            changed[place : place + length], changed[other : other + length] = (
                changed[other : other + length], changed[place : place + length],
            )  # fmt: skip
    return bytes(changed)


def read_onnx(path):
    external_files(path.read_bytes())
    float_form(path.read_bytes())


def read_and_write_image(path):
    write_image(path.with_name("again.png"), read_image(path))


PARSERS = {
    "manifest": (lambda path: read_manifest(path.parent), BundleError),
    "onnx": (read_onnx, GraphError),
    "checkpoint": (read_checkpoint, CheckpointError),
    "image": (read_and_write_image, ImageError),
    "toml": (lambda path: read_toml(path, RecipeFile), OptionError),
}


def check(parser, name, content, folder):
    """Parse a file: its own error in one line, or none, and in time."""
    read, error_type = PARSERS[parser]
    path = folder / (FILE_NAME if parser == "manifest" else name)
    path.write_bytes(content)
    started = time.process_time()
    message = ""
    try:
        read(path)
    except error_type as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2000
    assert time.process_time() - started < _MOST_S


@cache
def seeds(parser):
    """Return small files that a parser reads, with a name each."""
    rng = np.random.default_rng(0)
    if parser == "checkpoint":
        tensors = {
            "net.conv_in.weight": torch.zeros(4, 3, 3, 3), "net.body.0.bias": torch.ones(4),
            "total_ops": torch.zeros(1),
        }  # fmt: skip
        files = [("a.safetensors", safetensors.torch.save(tensors, metadata={"card": "{}"}))]
        for zipped in (True, False):
            buffer = io.BytesIO()
            document = {"ema": tensors, "step": np.float64(3), "names": ["a", ("b",)]}
            torch.save(document, buffer, _use_new_zipfile_serialization=zipped)
            files.append(("a.pth", buffer.getvalue()))
        return files
    if parser == "image":
        pixels = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112], exif[0x8769] = 6, {0xA002: 20}
        files = []
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
            buffer = io.BytesIO()
            pixels.save(buffer, kind, exif=exif.tobytes())
            files.append((f"a.{kind.lower()}", buffer.getvalue()))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 65536, (9, 8), dtype=np.uint16)).save(buffer, "PNG")
        return [*files, ("b.png", buffer.getvalue())]
    recipe = resources.files("mirnet_edge.training") / "recipes" / "low-light.toml"
    return [("a.toml", recipe.read_bytes())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    logging.disable(logging.WARNING)
    yield tmp_path_factory.mktemp("fuzz")
    logging.disable(logging.NOTSET)


def _settings():
    return settings(
        max_examples=_EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.mark.parametrize("parser", ["checkpoint", "image", "toml"])
@_settings()
@given(damages=_DAMAGES, place=st.integers(0, 9))
def test_a_damaged_file_ends_in_the_parsers_error(parser, folder, damages, place):
    files = seeds(parser)
    name, content = files[place % len(files)]
    check(parser, name, damage(content, damages), folder)


@pytest.mark.parametrize("parser", ["manifest", "onnx"])
@_settings()
@given(damages=_DAMAGES)
def test_a_damaged_bundle_ends_in_the_parsers_error(parser, folder, make_bundle, damages):
    bundle = folder / parser
    if not bundle.exists():
        make_bundle(f"made-{parser}").rename(bundle)
    name = FILE_NAME if parser == "manifest" else "fp32.onnx"
    kept = bundle / f"kept-{name}"
    if not kept.exists():
        kept.write_bytes((bundle / name).read_bytes())
    check(parser, name, damage(kept.read_bytes(), damages), bundle)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@_settings()
@given(data=st.data())
def test_a_manifest_of_other_values_ends_in_its_error(folder, make_bundle, data):
    bundle = folder / "values"
    if not bundle.exists():
        make_bundle("made-values").rename(bundle)
        (bundle / "kept").write_bytes((bundle / FILE_NAME).read_bytes())
    document = json.loads((bundle / "kept").read_text())
    place = document
    for _ in range(data.draw(st.integers(0, 3))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = [key for key in keys if isinstance(place[key], (dict, list)) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[data.draw(st.sampled_from(keys))] = data.draw(_JSON)
    check("manifest", FILE_NAME, json.dumps(document).encode(), bundle)


_STEPS = [
    b"(", b".", b"0", b"1", b"2", b"N", b"R", b"a", b"b", b"d", b"e", b"l", b"o", b"s", b"t", b"u",
    b")", b"]", b"}", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91",
    b"\x92", b"\x93", b"\x94", b"Q", b"K\1", b"q\0", b"h\0", b"q\1", b"h\1", b"X\1\0\0\0a",
    b"X\7\0\0\0storage", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"cnumpy\ndtype\n", b"J\xff\xff\xff\xff",
    b"\x8a\t\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"G@\0\0\0\0\0\0\0", b"\x80\2",
]  # fmt: skip


@_settings()
@given(steps=st.lists(st.sampled_from(_STEPS), max_size=60))
def test_any_program_of_pickle_steps_ends_in_the_error(folder, steps):
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"".join(steps) + b".")
        archive.writestr("a/data/a", bytes(64))
    check("checkpoint", "a.pth", buffer.getvalue(), folder)


@pytest.mark.parametrize("crash", sorted(_CRASHES.glob("*-*")), ids=lambda path: path.name)
def test_inputs_that_failed_once_end_in_the_error(crash, tmp_path):
    parser = crash.name.partition("-")[0]
    check(parser, crash.name.partition("-")[2], crash.read_bytes(), tmp_path)
