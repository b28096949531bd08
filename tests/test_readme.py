"""The README's commands run, in order, in one folder, as a reader would type them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What would take hours is shortened; nothing else is changed.
SHORTER = {
    "train": ["--steps", "1", "--batch", "1", "--crop", "32", "--exposure-steps", "1"],
    "bench": ["--rounds", "2", "--pairs", "lol"],
    "live": ["--display", "none"],
    "export": ["--target", "cpu"],
}
# There is no camera here, and no time for large frames.
INSTEAD = {"--source 0": "--source night.mp4", "--size 640x480": "--size 64x48"}
# What `make export` runs; the frames are small here.
SCRIPTS = {"benchmarks/demo.py": ["build"]}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def _photo(path, seed, side=64):
    pixels = np.random.default_rng(seed).integers(0, 60, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a folder with what a reader would have: a photo, a video, images, pairs."""
    folder = tmp_path_factory.mktemp("reader")
    _photo(folder / "photo.jpg", 0)
    for name in ("night-images", "lol", "my-camera/low", "my-camera/high", "holiday/beach"):
        (folder / name).mkdir(parents=True)
    _photo(folder / "holiday/beach/1.png", 1)
    rows = ["low,high,scene,split"]
    for number in range(8):
        _photo(folder / "night-images" / f"{number}.png", number)
        _photo(folder / "lol" / f"{number}.png", number)
        _photo(folder / "my-camera/low" / f"{number}.png", number)
        _photo(folder / "my-camera/high" / f"{number}.png", number)
        split = "val" if number < 2 else "train"
        rows.append(f"{number}.png,{number}.png,{number},{split}")
    (folder / "lol" / "pairs.csv").write_text("\n".join(rows) + "\n")
    with av.open(str(folder / "night.mp4"), "w") as container:
        track = container.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30, np.uint8), "rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_and_python_run_as_written(workplace):
    ours = [line for line in commands() if line.startswith("mirnet ")]
    assert len(ours) == 11
    program = Path(sys.executable).parent / "mirnet"
    for line in ours:
        for usual, here in INSTEAD.items():
            line = line.replace(usual, here)
        _, *arguments = shlex.split(line)
        name = arguments[0] if "compare" not in arguments else "compare"
        done = subprocess.run(
            [program, *arguments, *SHORTER.get(name, [])],
            cwd=workplace, capture_output=True, text=True, check=False,
        )  # fmt: skip
        # 3: noise in place of images may cost a precision its adoption
        assert done.returncode in (0, 3), f"{line}\n{done.stderr}"
    assert (workplace / "photo.compare.png").is_file()
    with (
        Image.open(workplace / "bright.jpg") as bright,
        Image.open(workplace / "large.jpg") as large,
    ):
        assert (bright.size, large.size) == ((64, 64), (128, 128))
    assert (workplace / "restored" / "beach" / "1.png").is_file()
    assert (workplace / "bright.mp4").is_file()
    assert (workplace / "build" / "bench" / "report.html").is_file()
    for script, arguments in SCRIPTS.items():
        line = [sys.executable, ROOT / script, "shipped:low-light", *arguments]
        subprocess.run(line, cwd=workplace, check=True, capture_output=True)
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code], cwd=workplace, check=True)
    assert (workplace / "large.png").is_file()


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_make_targets_exist(line):
    done = subprocess.run(
        ["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_command_is_left_out():
    known = ("mirnet ", "make ", "pip install ")
    assert all(line.startswith(known) for line in commands())


def test_extras_that_are_named_exist():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| extra \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    extras = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert len(extras) > 8
    for extra in extras:
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def test_links_and_images_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_folders_it_lists_exist():
    for name in re.findall(
        r"`((?:mirnet_edge|export|calibration|benchmarks|docs)/[\w/]*)`", README
    ):
        assert (ROOT / name).is_dir(), name


def test_each_device_has_one_of_four_states():
    section = README.partition("## On which devices")[2].partition("\n## ")[0]
    states = section.partition("one of: ")[2].partition(".")[0].split(" · ")
    assert len(states) == 4
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.splitlines()
        if line.startswith("| ")
    ][1:]
    assert len(rows) > 10
    assert {row[2] for row in rows} == set(states)
    for device, _, state, figures in rows:
        assert state != "measured here" or re.search(r"\d|figures", figures), device
