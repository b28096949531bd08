"""Damaged files at every parser: each ends in its own error, in one line and in time, or is read.

Seeds are damaged by hypothesis. `MIRNET_FUZZ_EXAMPLES=20000 pytest tests/fuzz` looks longer; an
input that fails goes into `crashes/`, named PARSER-WHAT, and is tried first in every run.
"""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pillow_heif
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mirnet_edge.checkpoints.crc32c import masked_crc32c
from mirnet_edge.checkpoints.keras_files import check_keras
from mirnet_edge.checkpoints.reading import read_checkpoint
from mirnet_edge.errors import (
    BundleError,
    CheckpointError,
    GraphError,
    ImageError,
    OptionError,
    VideoError,
)
from mirnet_edge.files import read_toml
from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.manifest import FILE_NAME, read_manifest
from mirnet_edge.onnx_wire import external_files, float_form
from mirnet_edge.testing.films import Film, write_film
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.training.recipe import RecipeFile
from mirnet_edge.video.files.restoring import restore_video
from mirnet_edge.video.restorer import single_runner_restorer

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from image_samples import gray_profile, motion_photo, parametric, stereo_pair, ultra_hdr
from tiff_layouts import Layout, write_tiff

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


def restore_film(path):
    restore_video(path, single_runner_restorer(NullRunner()), path.parent / "restored")


PARSERS = {
    "manifest": (lambda path: read_manifest(path.parent), BundleError),
    "onnx": (read_onnx, GraphError),
    "checkpoint": (read_checkpoint, CheckpointError),
    "keras": (check_keras, CheckpointError),
    "video": (restore_film, VideoError),
    "image": (read_and_write_image, ImageError),
    "heic": (read_and_write_image, ImageError),
    "animation": (read_and_write_image, ImageError),
    "companions": (read_and_write_image, ImageError),
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


def saved(pixels, kind, **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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
        pillow_heif.register_heif_opener()
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"):
            buffer = io.BytesIO()
            pixels.save(buffer, kind, exif=exif.tobytes())
            files.append((f"a.{kind.lower()}", buffer.getvalue()))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 65536, (9, 8), dtype=np.uint16)).save(buffer, "PNG")
        files.append(("b.png", buffer.getvalue()))
        for name, layout in (
            ("b.tif", Layout(compression=8, predictor=2, is_tiled=True)),
            ("c.tif", Layout(dtype="f4", predictor=3, is_planar=True)),
            ("d.tif", Layout(dtype="u1", channels=5, photometric=5, order=">", is_big=True)),
        ):
            levels = rng.integers(0, 2, (9, 8, layout.channels)).astype(layout.dtype)
            files.append((name, write_tiff(levels, layout)))
        return files
    if parser in ("animation", "companions", "heic"):
        return more_images(parser, rng)
    if parser == "video":
        films = [
            Film(name="a.mp4", sound="aac"), Film(name="a.mkv", sound="flac"),
            Film(name="a.ts", codec="mpeg2video", sound="mp2"),
            Film(name="a.avi", codec="mpeg4", sound="pcm_s16le"), Film(name="a.h264"),
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            return [
                (one.name, write_film(Path(folder) / one.name, one).read_bytes())
                for one in (replace(film, size=(16, 16)) for film in films)
            ]
    if parser == "keras":
        return [*keras_files(), ("a.keras", keras_archive(keras_files()[1][1]))]
    recipe = resources.files("mirnet_edge.training") / "recipes" / "low-light.toml"
    return [("a.toml", recipe.read_bytes())]


def more_images(parser, rng):
    """Return small images of a kind that has a parser of its own."""
    if parser == "heic":
        pillow_heif.register_heif_opener()
        levels = rng.integers(0, 256, (24, 20, 4), dtype=np.uint8)
        return [
            (f"a{channels}.heic", saved(levels[..., :channels].squeeze(), "HEIF"))
            for channels in (1, 3, 4)
        ]
    if parser == "animation":
        first, *later = (
            Image.fromarray(rng.integers(0, 256, (9, 8, 4), dtype=np.uint8)) for _ in range(3)
        )
        options = {"save_all": True, "append_images": later, "duration": [20, 40, 60]}
        return [
            (f"a.{kind.lower()}", saved(first, kind, **options)) for kind in ("PNG", "WEBP", "AVIF")
        ]
    # companions, profiles, intervals of a JPEG
    gray = rng.integers(0, 256, (24, 20), dtype=np.uint8)
    profile = gray_profile(parametric(4, 2.4, 0.9, 0.1, 0.08, 0.04, 0.0, 0.0))
    return [
        ("a.jpg", ultra_hdr()),
        ("b.jpg", stereo_pair()),
        ("c.jpg", motion_photo()),
        ("d.jpg", saved(gray, "JPEG", icc_profile=profile, restart_marker_blocks=2)),
        ("e.png", saved(gray, "PNG", icc_profile=profile)),
        ("f.tif", saved(gray, "TIFF", icc_profile=profile)),
    ]


def keras_files():
    """Return small HDF5 files in Keras' two layouts, and an index of TensorFlow."""
    files = []
    for name, place in (
        ("a.h5", "conv2d{0}/conv2d{0}/{1}:0"), ("a.weights.h5", "layers/conv2d{0}/vars/{2}"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for number in ("", "_1"):
                for index, (part, shape) in enumerate((("kernel", (3, 3, 3, 2)), ("bias", (2,)))):
                    values = np.zeros(shape, np.float32)
                    file.create_dataset(place.format(number, part, index), data=values)
            file.attrs["layer_names"] = [b"conv2d", b"conv2d_1"]
        files.append((name, buffer.getvalue()))
    return files


def keras_archive(weights):
    """Return a `.keras` archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        layers = [{"class_name": "Conv2D", "config": {"name": "conv2d"}}] * 2
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()


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


@pytest.mark.parametrize(
    "parser",
    ["animation", "checkpoint", "companions", "heic", "image", "keras", "toml", "video"],
)
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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"".join(steps) + b".")
        archive.writestr("a/data/a", bytes(64))
    check("checkpoint", "a.pth", buffer.getvalue(), folder)


def _varint(value):
    """Return a number of protobuf in five bytes."""
    groups = [value >> shift & 0x7F for shift in range(0, 35, 7)]
    return bytes([*(one | 0x80 for one in groups[:-1]), groups[-1]])


def _sealed(block):
    return block + b"\0" + struct.pack("<I", masked_crc32c(block + b"\0"))


_NUMBERS = st.sampled_from([0, 1, 2, 7, 60, 2**31, 2**35 - 1])
_VALUES = st.one_of(
    st.binary(max_size=30),
    st.lists(st.tuples(st.integers(0, 63), _NUMBERS), max_size=6).map(
        lambda fields: b"".join(_varint(tag) + _varint(value) for tag, value in fields)
    ),
)
_KEYS = [
    b"", b"_CHECKPOINTABLE_OBJECT_GRAPH", b"layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE",
    b"a/bias/.ATTRIBUTES/VARIABLE_VALUE", b"\xff",
]  # fmt: skip


@_settings()
@given(
    rows=st.lists(st.tuples(_NUMBERS, st.sampled_from(_KEYS), _VALUES), max_size=6),
    data=st.binary(max_size=64),
)
def test_any_index_of_tensorflow_with_right_checksums_ends_in_the_error(folder, rows, data):
    block = b"".join(
        _varint(shared) + _varint(len(key)) + _varint(len(value)) + key + value
        for shared, key, value in rows
    )
    keys = _sealed(block + struct.pack("<II", 0, 1))
    handle = _varint(0) + _varint(len(keys) - 5)
    top = _sealed(
        _varint(0) + _varint(1) + _varint(len(handle)) + b"z" + handle + struct.pack("<II", 0, 1)
    )
    footer = _varint(0) * 2 + _varint(len(keys)) + _varint(len(top) - 5)
    content = keys + top + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "variables.data-00000-of-00001").write_bytes(data)
    check("keras", "variables.index", content, folder)


@pytest.mark.parametrize("crash", sorted(_CRASHES.glob("*-*")), ids=lambda path: path.name)
def test_inputs_that_failed_once_end_in_the_error(crash, tmp_path):
    parser = crash.name.partition("-")[0]
    check(parser, crash.name.partition("-")[2], crash.read_bytes(), tmp_path)
