"""From a Keras file through the commands: export to INT8, restore, distill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import keras_layouts as layouts

from mirnet_edge import checkpoints
from mirnet_edge.cli.main import main
from mirnet_edge.files import sha256_of
from mirnet_edge.images.contract import batch_from_frames
from mirnet_edge.manifest import read_manifest

SIDE = 32


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the 2021 network, narrow, whose residual is small as after training."""
    network = layouts.make_network(variant="2021", channels=8, groups=1, blocks=1)
    with torch.no_grad():
        network.conv_out.weight.mul_(0.1)
    return layouts.write_legacy(tmp_path_factory.mktemp("keras") / "small.h5", network)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Nine pairs of smooth images, two of which validate."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["low,high,scene,split"]
    for number in range(9):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        high = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for kind, pixels in (("low", high // 5), ("high", high)):
            Image.fromarray(pixels).save(folder / f"{kind}{number}.png")
        split = "val" if number < 2 else "train"
        rows.append(f"low{number}.png,high{number}.png,{number},{split}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


def _run(capsys, *arguments):
    """Run the program in this process; return its exit code, and what it printed or complained."""
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out or printed.err


def test_a_keras_file_is_exported_to_int8_and_restores(weights, pairs, tmp_path, capsys):
    bundle, image = tmp_path / "bundle", pairs / "low0.png"
    code, printed = _run(
        capsys, "export", "--weights", weights, "--int8", "--target", "cpu", "--size",
        f"{SIDE}x{SIDE}", "--calibration", pairs, "--out", bundle, "--json",
    )  # fmt: skip
    assert code in (0, 3)  # whether INT8 is faster here is the machine's affair
    manifest = read_manifest(bundle)
    assert json.loads(printed)["model"]["architecture"] == "keras-mirnet"
    int8 = [one for one in manifest.configurations if one.precision == "int8"]
    assert int8
    assert all(one.truth_drop_db is not None for one in int8)
    assert all(one.against_fp32.mean_db > 30.0 for one in int8)
    assert manifest.gate.references == 2

    code, said = _run(
        capsys, "restore", image, "--bundle", bundle, "--precision", "fp32", "--out",
        tmp_path / "restored.png",
    )  # fmt: skip
    assert code == 0, said
    frame = np.asarray(Image.open(image))
    with torch.inference_mode():
        expected = checkpoints.load(weights).model(torch.from_numpy(batch_from_frames(frame[None])))
    levels = np.rint(255 * expected.clamp(0, 1)[0].permute(1, 2, 0).numpy())
    found = np.asarray(Image.open(tmp_path / "restored.png"), np.float64)
    assert np.abs(found - levels).max() <= 1


def test_a_keras_file_teaches_the_edge_network(weights, pairs, tmp_path, capsys):
    student = tmp_path / "student"
    code, said = _run(
        capsys, "train", "--data", pairs, "--teacher", weights, "--channels", "8,8,8", "--blocks",
        1, "--exposure-steps", 0, "--steps", 2, "--batch", 1, "--crop", SIDE, "--device", "cpu",
        "--out", student,
    )  # fmt: skip
    assert code == 0, said
    (written,) = student.glob("*.safetensors")
    distilled = checkpoints.load(written)
    assert (distilled.architecture, distilled.card.teacher) == ("edge", sha256_of(weights))
