"""mirnet-restore, run in this process on a bundle whose graph brightens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.cli.restore import main
from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.testing.null_runner import NullRunner


@pytest.fixture
def make_image(tmp_path, frames_of):
    def make(name, height=6, width=8):
        path = tmp_path / name
        write_image(path, ImageFile(frame=frames_of(height, width)[0]))
        return path

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def _outcomes(result):
    """Return the outcome of each file of a `--json` document, by its name."""
    return {Path(one["input"]).name: one["outcome"] for one in json.loads(result.out)["files"]}


def _brightened(path):
    return np.rint(np.minimum(read_image(path).frame * 1.5, 255))


def test_images_are_restored_and_told_on_stderr(ran, make_bundle, make_image, out):
    images = [make_image("in/a.png"), make_image("in/b.png", 5, 9)]
    result = ran(main, *images, "--bundle", make_bundle(), "--out", out)
    assert (result.code, result.out) == (0, "")
    first, second, counted = result.err.splitlines()
    assert counted == "mirnet-restore: 2 restored"
    assert first.startswith(f"{out / 'a.png'}  8x6  ")
    assert second.startswith(f"{out / 'b.png'}  9x5  ")
    assert second.endswith(" ms  onnxruntime:fp32")
    for image in images:
        restored = read_image(out / image.name).frame
        assert np.abs(restored - _brightened(image)).max() <= 1


def test_a_folder_is_restored_with_comparisons(ran, make_bundle, make_image, out):
    make_image("in/a.png")
    folder = make_image("in/b.jpg").parent
    result = ran(main, folder, "--bundle", make_bundle(), "--out", out, "--compare")
    assert result.code == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a.compare.png", "a.png", "b.compare.png", "b.jpg"]


def test_what_is_there_already_is_left_out_when_asked(ran, make_bundle, make_image, out):
    images = [make_image("in/a.png"), make_image("in/b.png")]
    options = ["--bundle", make_bundle(), "--out", out, "--skip-existing"]
    assert ran(main, images[0], *options).code == 0
    (out / "a.png").write_bytes(b"mine")
    result = ran(main, *images, *options, "--json")
    assert _outcomes(result) == {"a.png": "skipped", "b.png": "restored"}
    assert result.err.splitlines()[-1] == "mirnet-restore: 1 skipped, 1 restored"
    assert (out / "a.png").read_bytes() == b"mine"
    assert ran(main, images[0], *options).line == "mirnet-restore: 1 skipped"
    # the comparison of neither is there, and the results are not replaced unasked
    result = ran(main, *images, *options, "--compare", "--json")
    assert set(_outcomes(result).values()) == {"failed"}
    result = ran(main, *images, *options, "--compare", "--overwrite", "--json")
    assert set(_outcomes(result).values()) == {"restored"}
    assert (out / "a.png").read_bytes() != b"mine"


def test_a_image_is_not_its_own_result(ran, make_bundle, make_image):
    image = make_image("in/a.png")
    options = ["--bundle", make_bundle(), "--out", image.parent, "--skip-existing"]
    result = ran(main, image, *options)
    assert result.code == 2
    assert "would replace the input" in result.err


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_a_bundle_that_enlarges_writes_larger_images(io, ran, make_bundle, make_image, out):
    images = [make_image("in/a.png", 5, 7), make_image("in/b.png", 1, 1)]
    bundle = make_bundle(io=io, scale=2)
    result = ran(main, *images, "--bundle", bundle, "--out", out, "--compare")
    assert (result.code, result.out) == (0, "")
    first, second, _ = result.err.splitlines()
    assert first.startswith(f"{out / 'a.png'}  14x10  ")
    assert second.startswith(f"{out / 'b.png'}  2x2  ")
    for image in images:
        restored = read_image(out / image.name).frame
        expected = _brightened(image).repeat(2, 0).repeat(2, 1)
        assert restored.shape == expected.shape
        assert np.abs(restored - expected).max() <= 1
        height, width = restored.shape[:2]
        comparison = read_image(out / f"{image.stem}.compare.png").frame
        np.testing.assert_array_equal(comparison[:, -width:], restored)
        assert comparison.shape[0] == height
        assert comparison.shape[1] > 2 * width  # both, and a line


def test_json_is_all_there_is_on_stdout(ran, make_bundle, make_image, tmp_path, out):
    good = make_image("in/a.png")
    broken = tmp_path / "in" / "b.png"
    broken.write_text("no image")
    arguments = (good, broken, "--bundle", make_bundle(), "--out", out, "--compare", "--json")
    result = ran(main, *arguments)
    assert result.code == 2
    report = json.loads(result.out)
    assert report["counts"] == {"restored": 1, "failed": 1}
    restored, failed = report["files"]
    assert restored.pop("latency_ms") > 0
    assert restored == {
        "input": str(good),
        "outcome": "restored",
        "output": str(out / "a.png"),
        "comparison": str(out / "a.compare.png"),
        "configuration": "onnxruntime:fp32",
        "placement": "CPUExecutionProvider",
        "width": 8,
        "height": 6,
    }
    assert (failed["input"], failed["outcome"]) == (str(broken), "failed")
    assert "b.png is damaged or another kind of file; expected a PNG" in failed["reason"]


def test_json_without_comparison_or_failure(ran, make_bundle, make_image, out):
    result = ran(
        main, make_image("a.png"), "--bundle", make_bundle(), "--out", out, "--json"
    )  # fmt: skip
    assert result.code == 0
    (restored,) = json.loads(result.out)["files"]
    assert restored["comparison"] is None
    assert "reason" not in restored


def test_without_json_nothing_is_on_stdout(ran, make_bundle, make_image, out):
    result = ran(main, make_image("a.png"), "--bundle", make_bundle(), "--out", out)
    assert result.out == ""


# one bad image


def test_one_broken_of_several_is_named_and_counted(ran, make_bundle, make_image, tmp_path, out):
    images = [make_image("in/a.png"), tmp_path / "missing.png", make_image("in/z.png")]
    result = ran(main, *images, "--bundle", make_bundle(), "--out", out)
    assert result.code == 2
    done, failed, also_done, counted = result.err.splitlines()
    assert done.startswith(str(out / "a.png"))
    assert failed.startswith(f"mirnet-restore: {images[1]} cannot be read (No such file")
    assert failed.endswith("Check the name and its rights")
    assert also_done.startswith(str(out / "z.png"))
    assert counted == "mirnet-restore: 2 restored, 1 failed"


def test_a_single_broken_image_is_one_line(ran, make_bundle, tmp_path, out):
    (tmp_path / "a.png").write_bytes(b"")
    result = ran(main, tmp_path / "a.png", "--bundle", make_bundle(), "--out", out)
    assert result.code == 2
    assert result.line.startswith(f"mirnet-restore: {tmp_path / 'a.png'} is empty; expected a PNG")


def test_names_are_printed_as_they_are(ran, make_bundle, make_image, out):
    name = "[bold]:smile: " + "long " * 40 + ".png"
    result = ran(main, make_image(name), "--bundle", make_bundle(), "--out", out)
    assert result.code == 0
    assert result.line.startswith(f"{out / name}  8x6  ")


# one line on stderr, exit code 2


@dataclass(frozen=True)
class Refused:
    id: str
    says: str
    options: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        Refused("backend", "--backend must be auto or one of", ("--backend", "cuda")),
        Refused("precision", "found 'int4'", ("--precision", "int4")),
        Refused("no plan", "has no configuration for backend tensorrt", ("--backend", "tensorrt")),
        Refused("threads", "--threads must be at least 1, found 0", ("--threads", "0")),
        Refused(
            "not made",
            "the bundle has no configuration for backend openvino",
            ("--backend", "openvino"),
        ),
    ],
    ids=lambda case: case.id,
)
def test_options_that_do_not_fit_are_one_line(case, ran, make_bundle, make_image, out):
    image = make_image("a.png")
    result = ran(main, image, "--bundle", make_bundle(), "--out", out, *case.options)
    assert (result.code, result.out) == (2, "")
    assert result.line.startswith("mirnet-restore: ")
    assert case.says in result.line
    assert not out.exists()


def test_what_is_no_bundle_is_one_line(ran, make_image, tmp_path, out):
    result = ran(main, make_image("a.png"), "--bundle", tmp_path / "none", "--out", out)
    assert result.code == 2
    assert result.line == (
        f"mirnet-restore: {tmp_path / 'none'} is not a bundle: there is no such folder. Give the "
        "folder that mirnet export wrote."
    )


def test_a_changed_bundle_is_one_line(ran, make_bundle, make_image, out):
    bundle = make_bundle()
    with (bundle / "fp32.onnx").open("ab") as stream:
        stream.write(b"\0")
    result = ran(main, make_image("a.png"), "--bundle", bundle, "--out", out)
    assert result.code == 2
    assert "fp32.onnx has changed since the export: sha256 " in result.line
    assert not out.exists()


def test_inputs_are_never_replaced(ran, make_bundle, make_image):
    image = make_image("in/a.png")
    before = image.read_bytes()
    result = ran(main, image, "--bundle", make_bundle(), "--out", image.parent)
    assert result.code == 2
    assert result.line.endswith("choose another --out folder")
    assert image.read_bytes() == before


def test_a_image_of_another_size_than_the_bundle_is_one_line(ran, make_bundle, make_image, out):
    image = make_image("a.png", 6, 20)
    result = ran(main, image, "--bundle", make_bundle(size=(8, 12)), "--out", out)
    assert result.code == 2
    assert result.line == (
        f"mirnet-restore: {image}: frame is 20x6; fp32.onnx was exported for 12x8: export again "
        "with --size 20x6, or with --dynamic for ONNX graphs of any size"
    )


def test_a_rejected_precision_runs_with_a_warning(ran, make_bundle, make_mode, make_image, out):
    rejected = make_mode("onnxruntime:int8", accepted=False, reason="0.3 dB lost")
    bundle = make_bundle(modes=[make_mode("onnxruntime:fp32"), rejected])
    image = make_image("a.png")
    result = ran(main, image, "--bundle", bundle, "--out", out, "--precision", "int8")
    assert result.code == 0
    warning, done = result.err.splitlines()
    assert warning == "WARNING onnxruntime:int8 was not accepted by the quality gate: 0.3 dB lost"
    assert done.endswith("onnxruntime:int8")


def test_an_interruption_is_one_line_and_keeps_what_was_finished(
    ran, make_bundle, make_image, out, monkeypatch
):
    runner = NullRunner(failure=KeyboardInterrupt(), fails_at=2)
    monkeypatch.setattr("mirnet_edge.runtime.bundle.open_bundle", lambda *_, **__: runner)
    images = [make_image("in/a.png"), make_image("in/b.png")]
    result = ran(main, *images, "--bundle", make_bundle(), "--out", out, "--json")
    assert (result.code, result.out) == (130, "")
    done, interrupted = result.err.splitlines()
    assert done.startswith(str(out / "a.png"))
    assert interrupted == "mirnet-restore: interrupted; what was finished is kept"
    assert [path.name for path in out.iterdir()] == ["a.png"]
    assert not runner.is_open


def test_a_missing_argument_is_named(ran, make_bundle):
    result = ran(main, "--bundle", make_bundle())
    assert (result.code, result.out) == (2, "")
    assert "inputs" in result.line


def test_help_answers_without_anything_heavy():
    program = (
        "import sys\n"
        "from mirnet_edge.cli.restore import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    print(end.code, *sys.modules)\n"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout
    *helping, last = answer.splitlines()
    code, *modules = last.split()
    assert code == "0"
    assert "Restore images and videos." in "\n".join(helping)
    heavy = {"numpy", "torch", "openvino", "onnxruntime", "cv2", "PIL", "pydantic"}
    assert heavy.isdisjoint(modules)
    assert "mirnet_edge.cli.application" in modules  # the list is one


@pytest.mark.parametrize("tile", ["--tile=32x24", "--tile=auto", "--max-memory=512"])
def test_a_large_image_is_restored_in_tiles(tile, ran, make_bundle, make_image, out):
    image = make_image("in/a.png", 150, 211)
    bundle = make_bundle(size=(96, 96) if tile == "--tile=auto" else None)
    if tile == "--tile=32x24":  # smaller than the overlap of a graph that nobody measured
        result = ran(main, image, "--bundle", bundle, "--out", out, tile)
        assert result.code == 2
        assert "tiles of 24 pixels are too small for an overlap of 64" in result.line
        tile = "--tile=96x80"
    result = ran(main, image, "--bundle", bundle, "--out", out, tile)
    assert (result.code, result.out) == (0, "")
    restored = read_image(out / "a.png").frame
    assert np.abs(restored - _brightened(image)).max() <= 1


def test_a_tile_that_is_no_size_is_one_line(ran, make_bundle, make_image, out):
    result = ran(
        main, make_image("in/a.png"), "--bundle", make_bundle(), "--out", out, "--tile", "big"
    )
    assert result.code == 2
    assert "--tile must be WIDTHxHEIGHT" in result.line
