"""The package as people install it: light to import, one top-level name, commands that answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest

from mirnet_edge.files import sha256_of

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "nncf", "openvino", "tensorrt", "tensorrt_rtx", "onnxruntime", "cv2", "skimage"}
COMMANDS = sorted(entry.name for entry in distribution("mirnet-edge").entry_points)


def loaded_after(statement):
    """Return the modules a fresh interpreter holds after STATEMENT."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def module_of(command):
    return f"mirnet_edge.cli.{command.removeprefix('mirnet-').replace('-', '_')}"


def help_of(command):
    return f"from {module_of(command)} import main\ntry: main(['--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "statement",
    [
        "import mirnet_edge",
        "import mirnet_edge.manifest",
        "import mirnet_edge.bench.classical",
        "import mirnet_edge.calibration.sets",
        *map(help_of, COMMANDS),
    ],
    ids=["import", "manifest", "baselines", "built-in sets", *COMMANDS],
)
def test_import_and_help_are_light(statement):
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_running_a_bundle_needs_no_torch():
    statement = "import mirnet_edge; mirnet_edge.open_bundle; import mirnet_edge.runtime.restore"
    assert loaded_after(statement).isdisjoint({"torch", "nncf", "onnx"})


def test_the_checks_above_can_fail():
    assert "json" in loaded_after("import json")
    assert "torch" in loaded_after("import mirnet_edge.models.edge")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_version(command, capsys):
    module = import_module(module_of(command))
    with pytest.raises(SystemExit) as left:
        module.main(["--version"])
    assert not left.value.code
    assert capsys.readouterr().out.startswith(f"{command} ")


def test_the_folders_of_material_are_no_packages():
    for folder in ("export", "calibration", "benchmarks", "tests", "docs"):
        assert not list((ROOT / folder).rglob("__init__.py"))
        first = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # of a copy, for the build leaves files behind that a later one would pack again; without
    # isolation: what the build needs is installed, and nothing is fetched
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mirnet_edge", "export", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.mark.slow
def test_the_wheel_has_one_top_level_name(wheel):
    names = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"mirnet_edge"}


@pytest.mark.slow
def test_the_wheel_holds_the_weights_the_recipes_and_the_marker_of_types(wheel):
    sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
    assert "mirnet_edge/py.typed" in sizes
    for folder, kind in (
        ("weights", "safetensors"),
        ("weights", "md"),
        ("training/recipes", "toml"),
    ):
        files = sorted((ROOT / "mirnet_edge" / folder).glob(f"*.{kind}"))
        assert files
        for file in files:
            assert sizes[f"mirnet_edge/{folder}/{file.name}"] == file.stat().st_size


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
