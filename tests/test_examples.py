"""The scripts of examples/ run as their first lines say, and the documents are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(name, *arguments, folder):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def bundle(make_bundle):
    return make_bundle()


def test_these_are_all_examples():
    tested = ["benchmark.py", "export_checkpoint.py", "live_camera.py", "restore_image.py"]
    assert [*tested, "restore_video.py"] == EXAMPLES


def test_an_image_is_restored_with_its_exif(bundle, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    Image.new("RGB", (40, 24), (20, 30, 40)).save(tmp_path / "photo.jpg", exif=exif)
    run("restore_image.py", "photo.jpg", bundle, "restored.jpg", folder=tmp_path)
    with Image.open(tmp_path / "restored.jpg") as restored:
        assert restored.size == (40, 24)
        assert restored.getexif()[0x010F] == "a maker"


def test_a_video_keeps_its_frames(bundle, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "night.mp4"), "w") as container:
        track = container.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for level in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level * 10, np.uint8), "rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert "5 frames" in run("restore_video.py", "night.mp4", bundle, "out", folder=tmp_path)
    with av.open(str(tmp_path / "out" / "night.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_live_source_prints_a_line_for_each_frame(bundle, tmp_path):
    lines = run("live_camera.py", "synthetic", bundle, 3, folder=tmp_path).splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d+x\d+ [\d.]+ fps, age \d+ ms, \d+ dropped", one) for one in lines)


@pytest.mark.slow
def test_a_checkpoint_is_exported_and_its_bundle_measured(network_of, tmp_path):
    from mirnet_edge import checkpoints

    weights = tmp_path / "net.safetensors"
    checkpoints.save(network_of("edge", 0), weights, checkpoints.ModelCard(task="low-light"))
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 90, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    told = run("export_checkpoint.py", weights, images, "mine", folder=tmp_path)
    assert "openvino:int8: " in told
    default = told.splitlines()[-1].removeprefix("default: ")
    measured = run("benchmark.py", "mine", "64x48", folder=tmp_path)
    assert re.search(rf"^{re.escape(default)}: [\d.]+ ms, [\d.]+x$", measured, re.MULTILINE)


def test_the_slurm_script_starts_the_same_command_on_every_machine(tmp_path):
    """With programs in the place of SLURM's and torchrun that print what they are given."""
    script = ROOT / "examples/train_on_slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    for name, body in (
        ("scontrol", "printf 'node1\\nnode2\\n'"),
        ("srun", '"$@"'),
        ("torchrun", "printf '%s\\n' \"$@\""),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", script, "absent pairs", "out"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = done.stdout.splitlines()
    assert given[given.index("--rdzv-endpoint") + 1] == "node1:29500"
    assert given[given.index("--nnodes") + 1] == "2"
    command = given[given.index("--no-python") + 1 :]
    assert command[:4] == ["mirnet", "train", "--preset", "mirnet-v2"]
    answer = subprocess.run(
        [sys.executable, "-m", "mirnet_edge", *command[1:]],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # its options are known; only the images are not there
    assert answer.returncode == 2
    assert "absent pairs" in answer.stderr


def test_messages_that_troubleshooting_explains_are_in_the_code():
    page = (ROOT / "docs/guides/troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"(?:^|, )\*\*`([^`]+)`\*\*", page, re.MULTILINE)
    assert len(quoted) > 15
    # messages are written over several lines of source; f-strings hold the values
    code = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "mirnet_edge").rglob("*.py")
    )
    joined = re.sub(r'"\n\s*f?"', "", code)
    for message in quoted:
        words = message.replace('"mirnet-edge[', "").removesuffix(" ")
        assert words in joined.replace('\\"', '"'), message


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_commands_in_documents_exist(page):
    from mirnet_edge.cli import application  # noqa: F401  # the commands' module is importable

    commands = {path.stem for path in (ROOT / "mirnet_edge/cli").glob("*.py")} | {"live"}
    for name in re.findall(r"^\s*mirnet ([a-z]+)\b", page.read_text("utf-8"), re.MULTILINE):
        assert name in commands, f"{page}: mirnet {name}"


def wrong_paths(text):
    """Return (line number, path) of each Python or TOML file in backquotes that does not exist.

    Paths are relative to the repository or the package. A line that says that its file is a former
    one, or was removed, is not checked.
    """
    lines = text.splitlines()
    wrong = []
    for code in re.finditer(r"`([^`]+)`", text):
        number = text.count("\n", 0, code.start()) + 1
        if re.search(r"\b(former|removed)\b", lines[number - 1]):
            continue
        wrong += [
            (number, path)
            for path in re.findall(r"[\w./-]+\.(?:py|toml)\b", code[1])
            if not any((folder / path).is_file() for folder in (ROOT, ROOT / "mirnet_edge"))
        ]
    return wrong


@pytest.mark.parametrize(
    "note", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda note: note.name
)
def test_files_that_decisions_name_exist(note):
    assert not wrong_paths(note.read_text(encoding="utf-8"))


def test_the_check_of_files_can_fail():
    assert wrong_paths("in `training/absent.py` and\n`python\nbenchmarks/absent.py A`") == [
        (1, "training/absent.py"), (2, "benchmarks/absent.py"),
    ]  # fmt: skip
    assert not wrong_paths("`training/loop.py`, `mirnet_edge/files.py`, `benchmarks/robustness.py`")
    assert not wrong_paths("`training/absent.py` (removed since)")


def test_the_vapoursynth_script_restores_each_frame(bundle, monkeypatch, frames_of):
    """With a stand-in for VapourSynth, whose frames are three planes; it was never run itself."""
    import types

    import mirnet_edge

    given = frames_of(16, 32)[0]
    fake = types.ModuleType("vapoursynth")
    fake.RGB24, fake.YUV420P8 = "RGB24", "YUV420P8"
    outputs = []

    class Frame(list):
        def copy(self):
            return Frame(plane.copy() for plane in self)

    class Clip:
        def __init__(self, frame=None):
            self.frame = frame
            self.resize = self.std = self

        def Bicubic(self, **options):  # noqa: N802  # VapourSynth's names
            return self

        def ModifyFrame(self, clips, selector):  # noqa: N802
            return Clip(selector(0, clips.frame))

        def set_output(self):
            outputs.append(self.frame)

    source = Clip(Frame(np.ascontiguousarray(given[..., plane]) for plane in range(3)))
    fake.core = types.SimpleNamespace(
        bs=types.SimpleNamespace(VideoSource=lambda path: source), num_threads=8
    )
    monkeypatch.setitem(sys.modules, "vapoursynth", fake)
    script = ROOT / "examples" / "vapoursynth_restore.vpy"
    code = compile(script.read_text(encoding="utf-8"), str(script), "exec")
    scope = {"source": "night.mp4", "bundle": str(bundle)}
    exec(code, scope)  # as vspipe does
    scope["runner"].__exit__(None, None, None)
    with mirnet_edge.open_bundle(bundle) as runner:
        expected = runner.run(given[None])[0]
    np.testing.assert_array_equal(np.stack(outputs[0], axis=-1), expected)
    assert fake.core.num_threads == 1
