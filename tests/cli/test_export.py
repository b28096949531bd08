"""mirnet-export as it is typed: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mirnet_edge import checkpoints, manifest
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.cli import export
from mirnet_edge.export import job
from mirnet_edge.export.job import ExportResult
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig


def run(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        export.main([str(one) for one in arguments])
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "own.safetensors"
    model = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), exposure_channels=8))
    checkpoints.save(model, path, ModelCard(task="low-light", architecture="edge", config={}))
    return path


class _Bomb:
    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


def _images(folder, count, side=32):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 50, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def pickled(folder):
    path = folder / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": _Bomb()}))
    return ["--weights", path]


def truncated(folder):
    path = folder / "cut.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    return ["--weights", path]


def empty(folder):
    (folder / "empty.pth").touch()
    return ["--weights", folder / "empty.pth"]


def classifier(folder):
    path = folder / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}, path)
    return ["--weights", path]


def misshaped(folder):
    tensors = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8))).state_dict()
    tensors["head.bias"] = torch.zeros(7)
    torch.save(tensors, folder / "misshaped.pth")
    return ["--weights", folder / "misshaped.pth"]


def not_finite(folder):
    tensors = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8))).state_dict()
    tensors["head.bias"][0] = float("nan")
    torch.save(tensors, folder / "nan.pth")
    return ["--weights", folder / "nan.pth"]


def no_image(folder):
    return ["--int8", "--calibration", _images(folder / "none", 0)]


def one_image(folder):
    return ["--int8", "--calibration", _images(folder / "one", 1)]


def text_image(folder):
    images = _images(folder / "text", 9)
    (images / "0.png").write_text("no image")
    return ["--int8", "--calibration", images]


def out_is_a_file(folder):
    (folder / "taken").write_text("mine")
    return ["--out", folder / "taken"]


def out_under_a_file(folder):
    (folder / "taken").write_text("mine")
    return ["--out", folder / "taken" / "bundle"]


def own_weights(folder):
    return ["--int8", "--weights", folder / "own.safetensors"]


@dataclass(frozen=True)
class Bad:
    """Arguments, or what makes them in a folder, and what the one line must say."""

    arguments: object
    says: tuple[str, ...]
    id: str


BAD = [
    Bad(pickled, ("evil.pth", "code"), "pickle with code"),
    Bad(truncated, ("cut.safetensors",), "truncated"),
    Bad(empty, ("empty.pth", "empty"), "empty"),
    Bad(classifier, ("resnet.pth", "MIRNet"), "classifier"),
    Bad(misshaped, ("misshaped.pth", "head.bias"), "misshaped tensor"),
    Bad(not_finite, ("nan.pth", "head.bias", "NaN"), "NaN weights"),
    Bad(["--weights", "absent.pth"], ("absent.pth",), "absent weights"),
    Bad(["--weights", "shipped:fog"], ("shipped:fog", "shipped:low-light"), "unknown task"),
    Bad(no_image, ("none holds 0 images", "at least 8"), "no image"),
    Bad(one_image, ("one holds 1 image;", "at least 8"), "one image"),
    Bad(text_image, ("0.png", "calibration set"), "text named .png"),
    Bad(["--int8", "--calibration", "absent"], ("no calibration set 'absent'",), "no calibration"),
    Bad(own_weights, ("own.safetensors", "--calibration DIR"), "own weights, no images"),
    Bad(out_is_a_file, ("taken is a file",), "out is a file"),
    Bad(out_under_a_file, ("taken cannot be written",), "out under a file"),
    Bad(["--size", "0x480"], ("--size must be positive", "0x480"), "size 0"),
    Bad(["--size", "640x-1"], ("--size must be positive", "640x-1"), "size below 0"),
    Bad(["--size", "big"], ("WIDTHxHEIGHT", "'big'"), "size in words"),
    Bad(["--size", "64x64", "--dynamic"], ("exclude each other",), "size and dynamic"),
    Bad(["--max-drop", "-1"], ("--max-drop", "-1"), "max-drop below 0"),
    Bad(["--target", "toaster"], ("--target", "'toaster'", "cpu"), "unknown target"),
    Bad(["--mixed"], ("--mixed", "add --int8"), "mixed without INT8"),
    Bad(["--int8", "--target-fps", "30"], ("--target-fps", "goes with --mixed"), "rate, not mixed"),
    Bad(["--int8", "--mixed", "--target-fps", "0"], ("above 0", "found 0"), "rate 0"),
    Bad(["--io", "bgr"], ("--io", "'bgr'", "uint8"), "unknown io"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.id)
def test_bad_input_is_one_line_and_writes_nothing(bad, tmp_path, weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = bad.arguments(tmp_path) if callable(bad.arguments) else bad.arguments
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(["--out", tmp_path / "bundle", *arguments], capsys)
    # stages may precede it; the complaint is the last line and carries the command's name
    complaint = err.strip().splitlines()[-1]
    assert code == 2
    assert out == ""
    assert complaint.startswith("mirnet-export: ")
    for part in bad.says:
        assert part in complaint
    assert "Traceback" not in err
    assert "code in a checkpoint ran" not in out + err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def bundle(make_bundle, make_mode):
    names = ("onnxruntime:fp32", "openvino:int8", "tensorrt:int8+fp16")
    return make_bundle(
        modes=[
            make_mode(name, p50_ms=place or None, accepted=place != 1)
            for place, name in zip((12345.6, 1, 0), names, strict=True)
        ]
    )


def _pretend(monkeypatch, bundle, **changes):
    """Let the command run without its long job: as if that had given this manifest."""
    found = manifest.read_manifest(bundle)
    exported = replace(ExportResult(bundle, found, 120.0, ()), **changes)
    monkeypatch.setattr(job, "export_bundle", lambda options, on_stage, on_step: exported)
    return exported


def test_the_table_fits_80_columns_and_tells_what_was_rejected(bundle, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    exported = _pretend(monkeypatch, bundle, rejected=("int8-cpu",))
    code, out, err = run(["--out", "anywhere"], capsys)
    assert code == 3
    assert "rejected: int8-cpu" in err
    assert exported.manifest.default_configuration in err
    table = out.splitlines()[: len(exported.manifest.configurations) + 2]
    assert all(len(line) <= 80 for line in table)
    assert "…" not in out
    for mode in exported.manifest.configurations:
        assert mode.name in out


def test_an_estimated_drop_is_marked_in_the_table(bundle, capsys, monkeypatch):
    found = manifest.read_manifest(bundle)
    modes = [
        one.model_copy(update={"truth_drop_db": None, "estimated_drop_db": drop})
        for one, drop in zip(found.configurations, (None, 0.0493, None), strict=True)
    ]
    estimated = found.model_copy(update={"configurations": modes})
    _pretend(monkeypatch, bundle, manifest=estimated)
    _, out, _ = run([], capsys)
    assert "~+0.049" in out
    assert "~ estimated from the difference to fp32: the images have no reference" in out
    _pretend(monkeypatch, bundle)
    assert "estimated from" not in run([], capsys)[1]


@pytest.mark.parametrize("former", [False, True])
def test_an_interrupted_export_says_what_is_kept(former, tmp_path, capsys, monkeypatch, bundle):
    def interrupted(options, on_stage, on_step):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "export_bundle", interrupted)
    out = bundle if former else tmp_path / "new"
    code, _, err = run(["--out", out], capsys)
    kept = f"the former bundle in {out} is as it was" if former else f"nothing was written to {out}"
    resumed = "and the same command goes on after the last finished stage"
    assert (code, err) == (130, f"mirnet-export: interrupted; {kept}, {resumed}\n")


def test_json_is_the_manifest_and_nothing_else(bundle, capsys, monkeypatch):
    exported = _pretend(monkeypatch, bundle)
    code, out, _ = run(["--json"], capsys)
    assert code == 0
    assert json.loads(out)["default_configuration"] == exported.manifest.default_configuration


def test_a_page_is_written_beside_the_bundle(weights, tmp_path, capsys):
    from mirnet_edge.errors import MirnetEdgeError
    from mirnet_edge.export.web.runtime import find_archive

    try:
        archive = find_archive()
    except MirnetEdgeError as error:
        pytest.skip(f"no onnxruntime-web on this machine: {error}")
    options = ["--weights", weights, "--calibration", _images(tmp_path / "images", 8)]
    options += ["--out", tmp_path / "bundle", "--web", tmp_path / "page", "--runtime", archive]
    code, out, err = run(options, capsys)
    assert not code, err
    assert "web: accepted; runs on WASM and WebGPU" in out
    assert " MB, fp32, WASM and WebGPU; mirnet web " in err
    facts = json.loads((tmp_path / "page" / "page.json").read_bytes())
    assert facts["source"] == "own.safetensors"


def test_a_runtime_without_a_page_is_refused(capsys):
    code, _, err = run(["--runtime", "a.tgz"], capsys)
    assert (code, err.splitlines()[-1]) == (
        2, "mirnet-export: --runtime a.tgz is for --web; give --web DIR too",
    )  # fmt: skip


def test_litert_models_and_what_was_left_out_of_all_targets_have_a_line_each(
    bundle, make_mode, capsys, monkeypatch
):
    found = manifest.read_manifest(bundle)
    model = found.graphs[0].model_copy(update={"name": "litert-int8", "size": (480, 640)})
    mode = make_mode("litert:int8", p50_ms=9.0, accepted=False, graph="litert-int8")
    added = found.model_copy(
        update={
            "graphs": [*found.graphs, model], "configurations": [*found.configurations, mode],
        }
    )  # fmt: skip
    advice = 'pip install "mirnet-edge[litert-export]"'  # brackets are no markup
    _pretend(monkeypatch, bundle, manifest=added, omitted=(f"litert: not written; {advice}",))
    code, out, _ = run(["--out", "anywhere"], capsys)
    assert code == 0
    size = f"{model.onnx.size_bytes / 1024:.0f} KiB"
    assert f"litert: int8 rejected ({size}); of 640x480 alone" in out
    assert f"\nlitert: not written; {advice}\n" in out
