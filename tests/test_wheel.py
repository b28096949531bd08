"""The wheel, in an environment with the base dependencies alone: no torch, no onnx, no OpenVINO.

The dependencies are links to those that are installed here, so that nothing is fetched.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mirnet_edge"
LARGEST_MIB = 15.0
EXTRAS = {"torch", "onnx", "nncf", "openvino", "av", "aiohttp", "ray", "skimage", "safetensors"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="links need rights there"),
]


def _build(out, tmp):
    """Build a wheel of this tree, of a copy: the build leaves files that a later one would pack."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp)
    shutil.copytree(PACKAGE, tmp / "mirnet_edge", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("export", "tests"):  # which must not be packed
        shutil.copytree(ROOT / name, tmp / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(tmp)], check=True, capture_output=True)


def _is_of_this_tree(wheel):
    """Return whether a wheel holds the package as it is here."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("mirnet_edge/")}
        sources = {
            (Path(folder) / name).relative_to(ROOT).as_posix(): Path(folder) / name
            for folder, _, names in os.walk(PACKAGE, followlinks=True)
            for name in names
            if not folder.endswith("__pycache__")
        }
        modules = {name for name in sources if name.endswith(".py")}
        return modules <= held <= set(sources) and all(
            archive.read(name) == sources[name].read_bytes() for name in held
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel that `make wheel` built of this tree, or one that is built here."""
    found = [path for path in (ROOT / "build/wheel").glob("*.whl") if _is_of_this_tree(path)]
    if not found:
        out = tmp_path_factory.mktemp("wheel")
        _build(out, tmp_path_factory.mktemp("source"))
        found = list(out.glob("*.whl"))
        assert _is_of_this_tree(found[0])
    return found[0]


def _requirements(names):
    """Return the names of distributions and all they require, without extras."""
    found, remaining = set(), list(names)
    while remaining:
        name = re.split(r"[\s;<>=!~\[(]", remaining.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another Python or system
            continue
        found.add(name)
        remaining += [one for one in distribution.requires or () if "extra ==" not in one]
    return found


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """Run the installed program in a fresh environment: program("restore", ..., cwd=folder)."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = place / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
    requires = re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)
    for name in _requirements(one for one in requires if "extra ==" not in one):
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(distribution.locate_file(top)))
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    # a PYTHONPATH would show pip another copy of the package, and it would install nothing
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([*command, *options, str(wheel)], check=True, capture_output=True, env=clean)

    def run(*arguments, cwd=place, program="mirnet"):
        environment = clean | {"XDG_CACHE_HOME": str(place / "cache"), "COLUMNS": "200"}
        return subprocess.run(
            [place / "bin" / program, *map(str, arguments)],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def photo(tmp_path):
    """Write a dark image, of waves and squares."""
    rows, columns = np.mgrid[:96, :128]
    light = 12.0 + 10.0 * np.sin(columns / 17) * np.cos(rows / 13)
    light += 8.0 * ((columns // 32 + rows // 24) % 2)
    frame = np.stack((light, 0.9 * light, 0.8 * light), -1).round().astype(np.uint8)
    Image.fromarray(frame).save(tmp_path / "dark.jpg")
    return tmp_path / "dark.jpg"


def _processor_time_s():
    """Return the processor time of the programs that this one ran to their end, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


def _level(path):
    with Image.open(path) as image:
        return np.asarray(image).mean()


def test_it_is_small_and_holds_one_name(wheel):
    assert wheel.stat().st_size <= LARGEST_MIB * 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"mirnet_edge"}


def test_it_holds_what_the_package_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert "mirnet_edge/py.typed" in sizes
    for folder, kind in (
        ("weights", "safetensors"),
        ("weights", "md"),
        ("bundles/low-light", "onnx"),
        ("bundles/low-light", "json"),
        ("diagnosis", "onnx"),
        ("training/recipes", "toml"),
        ("calibration/shipped", "toml"),
        ("bench/suites", "toml"),
        ("export/device_presets", "toml"),
        ("pages/shared", "css"),
        ("pages/browser", "js"),
        ("pages/restore", "html"),
        ("video/web/page", "html"),
    ):
        files = sorted((PACKAGE / folder).glob(f"*.{kind}"))
        assert files, folder
        for file in files:
            assert sizes[f"mirnet_edge/{folder}/{file.name}"] == file.stat().st_size


def test_the_extras_are_not_there(program):
    code = (
        "import importlib.util, sys; "
        "print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    )
    done = program("-c", code, *EXTRAS, "onnxruntime", program="python")
    assert done.stdout.strip() == "['onnxruntime']", done.stderr


def test_a_photo_is_restored_by_one_command(program, photo):
    before = _processor_time_s()
    done = program("restore", "dark.jpg", cwd=photo.parent)
    assert done.returncode == 0, done.stderr
    # processor time, which other work does not lengthen: 0.9 s with the timing of the first run;
    # 6 s are the 3 s of two cores
    assert _processor_time_s() - before < 6.0
    assert _level(photo.parent / "dark.restored.jpg") > 2 * _level(photo)
    assert "  onnxruntime:" in done.stderr


def test_a_folder_and_a_chain_are_restored(program, photo, tmp_path):
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    shutil.copy(photo, folder / "a.jpg")
    shutil.copy(photo, folder / "beach" / "b.jpg")
    (folder / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(32))
    options = ["--task", "denoise,super-resolution", "--recursive", "--out", "out", "--json"]
    done = program("restore", "holiday", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {one["input"]: one for one in json.loads(done.stdout)["files"]}
    assert files["holiday/film.mp4"]["outcome"] == "left out"
    assert 'pip install "mirnet-edge[video]"' in files["holiday/film.mp4"]["reason"]
    with Image.open(tmp_path / "out/beach/b.jpg") as image:
        assert image.size == (256, 192)


def test_a_video_needs_the_extra_that_one_line_names(program, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(32))
    done = program("restore", "film.mp4", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        'needs the package av, which is not installed: pip install "mirnet-edge[video]"'
    )


def test_python_restores_without_torch(program, photo):
    code = (
        "import sys, mirnet_edge; "
        "restored = mirnet_edge.restore('dark.jpg', task='low-light', strength=0.5); "
        "print(restored.shape, 'torch' in sys.modules)"
    )
    done = program("-c", code, program="python", cwd=photo.parent)
    assert done.stdout.strip() == "(96, 128, 3) False", done.stderr


def test_help_imports_neither_numpy_nor_pydantic(program):
    code = (
        "import sys, contextlib; from mirnet_edge.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print({'numpy', 'pydantic', 'torch', 'mirnet_edge.cli.bench'} & set(sys.modules))"
    )
    done = program("-c", code, program="python")
    assert done.stdout.splitlines()[-1] == "{'mirnet_edge.cli.bench'}", done.stderr


def test_help_is_quick(program):
    def least_s(*arguments, **options):
        taken = []
        for _ in range(3):
            before = _processor_time_s()
            assert program(*arguments, **options).returncode == 0
            taken.append(_processor_time_s() - before)
        return min(taken)

    # twice what numpy takes to be imported; old processors need longer for both
    numpy_s = least_s("-c", "import numpy", program="python")
    assert least_s("--help") < max(0.5, 5 * numpy_s)


def test_the_quick_suite_measures_what_is_installed(program, tmp_path):
    small = ["--size", "64x48", "--rounds", 2, "--row-seconds", 0.1, "--json"]
    done = program("bench", "--suite", "quick", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    measured = {row["name"] for row in report["rows"] if row["timings"]}
    assert any("onnxruntime" in name for name in measured), report["rows"]
    assert report["pair_sets"] == []
    (line,) = [one for one in done.stderr.splitlines() if "pip install" in one]
    assert "quality on the built-in images needs the package skimage" in line


COMMANDS = {
    "train --data pairs": "export",
    "train --data pairs --init shipped:low-light": "export",
    "prune --data pairs": "export",
    "distill shipped:low-light --data pairs": "export",
    "export": "export",
    "export --int8": "export",
    "plan": "export",
    "sensitivity": "export",
    "bench --suite quick --pairs built-in": "export",
    "restore film.mp4": "video",
    "restore a.mp4 b.mp4 --executor ray": "video",
    "restore a.mp4 b.mp4 --executor ray --task denoise": "fleet",
    "restore images --backend openvino": "cpu",
    "sensitivity --weights shipped:denoise": "export",
    "live --source film.mp4 --display none": "video",
    "live --source synthetic --display web": "web",
    "live --source synthetic --display none --virtual-camera auto": "virtual-camera",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(line, program, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "pairs/low").mkdir(parents=True)
    (tmp_path / "pairs/high").mkdir(parents=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        for folder in ("images", "pairs/low", "pairs/high"):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    for name in ("film.mp4", "a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypisom" + bytes(32))
    done = program(*line.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [one for one in done.stderr.splitlines() if "pip install" in one]
    assert lines, done.stderr
    assert all(f'pip install "mirnet-edge[{COMMANDS[line]}]"' in one for one in lines), lines


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "bench --suite absent",
            "expected a TOML file, or one of cpu, denoise, gpu, jetson, low-light",
        ),
        ("export --preset absent", "or one of a100, agx-orin, "),
        ("export --int8 --calibration absent", "or one of indoor-camera, night, "),
    ],
)
def test_suites_and_presets_are_found_by_name(line, says, program):
    done = program(*line.split())
    assert done.returncode == 2
    (message,) = done.stderr.splitlines()
    assert says in message
