"""The package as people install it: light to import, one top-level name, commands that answer."""

from __future__ import annotations

import os
import pydoc
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mirnet_edge
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.files import sha256_of

if sys.version_info >= (3, 11):
    from tomllib import loads as read_toml_text
else:
    from tomli import loads as read_toml_text

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "nncf", "openvino", "tensorrt", "tensorrt_rtx", "onnx", "onnxruntime", "cv2",
    "skimage", "av", "ray", "matplotlib",
}  # fmt: skip
SCRIPTS = read_toml_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "scripts"
]


def loaded_after(statement):
    """Return the modules a fresh interpreter holds after STATEMENT."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def load_script(name):
    module, _, function = SCRIPTS[name].partition(":")
    return getattr(import_module(module), function)


def statement_of(script, *arguments):
    """Return code that runs a console script, whatever its exit code."""
    module, _, function = SCRIPTS[script].partition(":")
    call = f"try: {function}({list(arguments)!r})\nexcept SystemExit: pass"
    return f"from {module} import {function}\n{call}"


@pytest.mark.parametrize(
    "statement",
    [
        "import mirnet_edge",
        "import mirnet_edge.manifest",
        "import mirnet_edge.bench.classical",
        "import mirnet_edge.calibration.sets",
        *(statement_of(script, "--help") for script in SCRIPTS),
    ],
    ids=["import", "manifest", "baselines", "built-in sets", *SCRIPTS],
)
def test_import_and_help_are_light(statement):
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_running_a_bundle_needs_no_torch():
    statement = "import mirnet_edge; mirnet_edge.open_bundle; import mirnet_edge.runtime.restore"
    assert loaded_after(statement).isdisjoint({"torch", "nncf", "onnx"})


def test_writing_a_page_needs_no_torch():
    statement = (
        "from mirnet_edge.export.web.page import make_network\n"
        "from mirnet_edge.runtime.shipped import find_bundle\n"
        "make_network(find_bundle('shipped:low-light'), 'x')"
    )
    assert loaded_after(statement).isdisjoint({"torch", "nncf", "onnx", "openvino"})


def test_the_checks_above_can_fail():
    assert "json" in loaded_after("import json")
    assert "torch" in loaded_after("import mirnet_edge.models.edge")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_its_version(script, capsys):
    with pytest.raises(SystemExit) as left:
        load_script(script)(["--version"])
    assert not left.value.code
    assert capsys.readouterr().out == f"{script} {mirnet_edge.__version__}\n"


def test_the_installed_module_is_the_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mirnet", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("mirnet_edge", run_name="__main__")
    assert capsys.readouterr().out == f"mirnet {mirnet_edge.__version__}\n"


# the public API


def test_help_shows_the_public_names_and_no_others():
    assert set(dir(mirnet_edge)) == set(mirnet_edge.__all__)
    shown = pydoc.render_doc(mirnet_edge, renderer=pydoc.plaintext)
    entries = set(re.findall(r"^    (?:class )?(\w+)\(", shown, re.MULTILINE))
    functions = {"diagnose", "open_bundle", "restore", "stream"}
    assert entries == {*functions, "Diagnosis", "RestoringCapture"}
    assert "TYPE_CHECKING" not in shown


@pytest.mark.parametrize("name", mirnet_edge.__all__)
def test_every_public_name_is_there_and_described(name):
    assert getattr(mirnet_edge, name).__doc__


def test_an_array_and_its_file_are_restored_alike(make_bundle, frames_of, tmp_path):
    bundle = make_bundle()
    frame = frames_of(24, 40)[0] // 2
    Image.fromarray(frame).save(tmp_path / "night.png")
    restored = mirnet_edge.restore(frame, bundle)
    assert restored.dtype == np.uint8
    assert np.abs(restored - np.minimum(np.rint(frame * 1.5), 255)).max() <= 1
    np.testing.assert_array_equal(
        mirnet_edge.restore(tmp_path / "night.png", str(bundle)), restored
    )
    large = frames_of(150, 211)[0]
    whole, tiled = (mirnet_edge.restore(large, bundle, tile=tile) for tile in (None, (96, 96)))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_a_file_is_turned_as_viewers_show_it(make_bundle, frames_of, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(frames_of(24, 40)[0]).save(tmp_path / "turned.png", exif=exif)
    assert mirnet_edge.restore(tmp_path / "turned.png", make_bundle()).shape == (40, 24, 3)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((8, 8, 3), np.float32), "must be uint8"),
        (np.zeros((8, 8, 4), np.uint8), "3 channels"),
        (np.zeros((2, 8, 8, 3), np.uint8), "4 axes"),
        ("absent.png", "absent.png cannot be read"),
    ],
    ids=["float", "four channels", "batch", "absent file"],
)
def test_what_is_no_image_is_refused(image, says, make_bundle):
    with pytest.raises(ImageError, match=says):
        mirnet_edge.restore(image, make_bundle())


def test_tasks_are_restored_one_after_the_other_and_blended(frames_of):
    frame = frames_of(24, 40)[0]
    options = {"backend": "onnxruntime", "precision": "fp32"}
    whole = mirnet_edge.restore(frame, task="denoise,super-resolution", **options)
    assert whole.shape == (48, 80, 3)
    denoised = mirnet_edge.restore(frame, "shipped:denoise", **options)
    by_steps = mirnet_edge.restore(denoised, "shipped:super-resolution", **options)
    np.testing.assert_array_equal(whole, by_steps)
    half = mirnet_edge.restore(frame, task="denoise,super-resolution", strength=0.5, **options)
    large = np.asarray(Image.fromarray(frame).resize((80, 48), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(half, (whole.astype(float) + large) / 2, atol=1)
    with pytest.raises(OptionError, match="give one of the two"):
        mirnet_edge.restore(frame, "shipped:denoise", task="denoise")


def test_the_folders_of_material_are_no_packages():
    assert not list((ROOT / "docs").rglob("__init__.py"))
    for folder in ("export", "calibration", "benchmarks", "tests"):
        assert not list((ROOT / folder).rglob("__init__.py"))
        first = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ")


def test_every_public_module_says_in_its_first_line_what_it_is():
    for path in (ROOT / "mirnet_edge").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_each_shipped_weight_has_a_card_that_is_its_own():
    folder = ROOT / "mirnet_edge" / "weights"
    shipped = sorted(folder.glob("*.safetensors"))
    assert shipped
    for weights in shipped:
        card = weights.with_suffix(".md").read_text(encoding="utf-8")
        assert sha256_of(weights) in card
        assert f"{weights.stat().st_size:,} bytes" in card


def test_libraries_report_nothing_to_their_makers(tmp_path):
    """ONNX Runtime would keep a device identifier and a queue of events in the user's cache."""
    code = (
        "import numpy as np, mirnet_edge\n"
        "frame = np.full((16, 16, 3), 30, np.uint8)\n"
        "mirnet_edge.restore(frame, 'shipped:low-light', 'onnxruntime', threads=1)\n"
    )
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept = {name: one for name, one in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept | places)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.parts[:2] == ("cache", "mirnet-edge") for path in written), written
