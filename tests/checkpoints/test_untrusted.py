"""What training programs wrap around weights is found; what a file only claims is refused."""

from __future__ import annotations

import io
import json
import logging
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mirnet_edge.checkpoints import load
from mirnet_edge.checkpoints.archives import read_layout
from mirnet_edge.errors import CheckpointError
from mirnet_edge.models import MIRNet, MIRNetConfig, MIRNetEdge, MIRNetEdgeConfig

_EDGE = MIRNetEdgeConfig(channels=(8, 12, 16), blocks=1, exposure_channels=4)
_BOMBS = Path(__file__).parents[2] / "benchmarks" / "bombs.py"


@pytest.fixture(scope="module")
def network():
    return MIRNetEdge(_EDGE)


@pytest.fixture
def tensors(network):
    return dict(network.state_dict())


@pytest.fixture
def opened(tmp_path, caplog):
    """Save a document and load it: opened(document, key=None) returns the weights and the lines."""

    def run(document, key=None, name="net.pth", **options):
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(document, tmp_path / name)
        else:
            torch.save(document, tmp_path / name, **options)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = load(tmp_path / name, key).model.state_dict()
        lines = [one.getMessage().replace(f"{tmp_path / name}", "FILE") for one in caplog.records]
        return found, lines

    return run


def _same(found, tensors):
    return all(torch.equal(found[key], tensors[key]) for key in tensors)


def _shifted(tensors):
    return {key: tensor + 1 for key, tensor in tensors.items()}


def _under(prefix, tensors):
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    "wrapper", ["model_state_dict", "net_g", "generator", "ema", "params", "what.ever", "weights"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_any_wrapper_is_found_by_what_is_in_it(wrapper, zipped, opened, tensors):
    document = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}}}
    document[wrapper] = OrderedDict(tensors)
    found, lines = opened(document, _use_new_zipfile_serialization=zipped)
    assert _same(found, tensors)
    assert lines == []


def test_wrappers_in_wrappers_are_opened(opened, tensors):
    document = {"a": [1], "checkpoint": {"b": {"net": {"state_dict": tensors}}}}
    assert _same(opened(document)[0], tensors)


@pytest.mark.parametrize("wrap", [list, tuple, enumerate], ids=["list", "tuple", "numbers"])
def test_sets_in_lists_and_under_numbers_are_named_by_them(wrap, opened, tensors):
    sets = [{"conv.weight": torch.zeros(4, 3, 3, 3)}, tensors, _shifted(tensors)]
    document = dict(wrap(sets)) if wrap is enumerate else wrap(sets)
    found, lines = opened(document)
    assert _same(found, tensors)
    assert "2 sets of weights: '1', '2'; '1' is taken" in lines[0]
    found, _ = opened({"networks": document}, "networks.2")
    assert _same(found, _shifted(tensors))


@pytest.mark.parametrize("prefix", ["net.", "model.", "generator.", "G.", "x.y.module.", "net_"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_prefix_is_found_by_what_is_behind_it(prefix, suffix, opened, tensors):
    found, lines = opened(_under(prefix, tensors), name=f"net{suffix}")
    assert _same(found, tensors)
    assert lines == [f"FILE: keys begin with {prefix!r}, which is left out"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_usual_prefixes_need_no_line(prefix, opened, tensors):
    found, lines = opened(_under(prefix, tensors))
    assert _same(found, tensors)
    assert lines == []


def test_a_prefix_of_mirnet_is_found_too(opened):
    network = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1))
    tensors = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    found, lines = opened({"state_dict": _under("net.", tensors)})
    assert _same(found, tensors)
    assert lines == ["FILE: keys begin with 'net.', which is left out"]


def test_other_networks_beside_a_prefix_are_left_out_with_a_line(opened, tensors):
    beside = {"loss.vgg.0.weight": torch.zeros(4, 3, 3, 3), "loss.vgg.0.bias": torch.zeros(4)}
    found, lines = opened({"state_dict": {**beside, **_under("net.", tensors)}})
    assert _same(found, tensors)
    assert lines[1] == (
        "FILE: 2 tensors beside the network are ignored: 'loss.vgg.0.weight', 'loss.vgg.0.bias'"
    )


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [
        ("ema", "model"), ("params_ema", "params"), ("model_ema", "model"), ("ema_model", "model"),
        ("generator_ema", "generator"), ("swa_weights", "state_dict"), ("ema.shadow", "net"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_of_two_sets_the_averaged_one_is_taken_and_said(averaged, plain, first, opened, tensors):
    outer, _, inner = averaged.partition(".")
    sets = {outer: {inner: tensors} if inner else tensors, plain: _shifted(tensors)}
    document = dict(sorted(sets.items(), key=lambda one: (one[0] == outer) != first))
    found, lines = opened(document)
    assert _same(found, tensors)
    (line,) = lines
    assert line.startswith("FILE holds 2 sets of weights: ")
    assert line.endswith(f"; {averaged!r} is taken. --weights-key takes another")
    assert repr(averaged) in line
    assert repr(plain) in line
    for key, expected in ((averaged, tensors), (plain, _shifted(tensors))):
        found, lines = opened(document, key)
        assert _same(found, expected)
        assert lines == []


def test_two_sets_of_one_dictionary_are_told_apart_by_prefix(opened, tensors):
    document = {"state_dict": {**_under("net.", _shifted(tensors)), **_under("ema.", tensors)}}
    found, lines = opened(document)
    assert _same(found, tensors)
    assert "'state_dict.net', 'state_dict.ema'; 'state_dict.ema' is taken" in lines[0]
    assert _same(opened(document, "net")[0], _shifted(tensors))
    bare = {**_shifted(tensors), **_under("ema.", tensors)}
    assert _same(opened(bare)[0], tensors)
    assert _same(opened(bare, "")[0], _shifted(tensors))


def test_of_two_plain_sets_the_first_is_taken(opened, tensors):
    found, lines = opened({"a": tensors, "b": _shifted(tensors)})
    assert _same(found, tensors)
    assert "2 sets of weights: 'a', 'b'; 'a' is taken" in lines[0]


def test_a_set_that_is_not_there_is_refused_with_those_that_are(opened, tensors):
    with pytest.raises(CheckpointError, match=r"no sets .* under 'c'; it holds 'a', 'b'\. Give"):
        opened({"a": tensors, "b": tensors}, "c")


def test_an_empty_set_is_passed_over(opened, tensors):
    found, lines = opened({"params_ema": {}, "params": tensors})
    assert _same(found, tensors)
    assert lines == []


def test_counters_and_empty_tensors_are_ignored_with_a_line(opened, tensors):
    counters = {
        "total_ops": torch.zeros(1, dtype=torch.float64),
        "blocks.0.total_params": torch.zeros(1, dtype=torch.float64),
        "blocks.0.num_batches_tracked": torch.tensor(7),
        "buffer": torch.zeros(0),
    }
    found, lines = opened({**tensors, **counters})
    assert _same(found, tensors)
    assert lines == [
        "FILE: 4 counters or empty tensors are ignored: 'total_ops', 'blocks.0.total_params', "
        "'blocks.0.num_batches_tracked', ..."
    ]


def test_plain_values_and_harmless_objects_beside_weights_are_allowed(opened, tensors):
    document = {
        "state_dict": tensors,
        "psnr": np.float64(23.5), "step": np.int64(7), "lr": np.float32(1e-4), "done": np.True_,
        "options": Namespace(rate=1), "history": defaultdict(list, a=[1.5]),
        "counts": Counter("aab"), "losses": deque([0.5]), "all": range(3), "of": complex(1, 2),
        "day": date(2026, 11, 29), "names": {"a", "b"}, "path": Path("x"), "none": None,
        "range": slice(1, 2), "big": 1 << 80, "array": np.arange(3), "dtype": torch.float16,
        "shape": torch.Size([1, 2]), (1, "key"): 2,
    }  # fmt: skip
    for zipped in (True, False):
        found, lines = opened(document, _use_new_zipfile_serialization=zipped)
        assert _same(found, tensors)
        assert lines == []
    found, _ = opened({**tensors, "epoch": 3, "psnr": np.float64(2.0)})
    assert _same(found, tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_parameters_and_types_are_read_as_torch_does(zipped, opened, tensors, network):
    stem = tensors["stem.weight"]
    turned = torch.empty(stem.shape[::-1]).permute(3, 2, 1, 0)
    turned.copy_(stem)
    part = torch.stack([torch.zeros_like(stem), stem])[1]
    for changed in (
        turned, part, torch.nn.Parameter(stem), stem.double(), stem.expand(stem.shape),
    ):  # fmt: skip
        document = {**tensors, "stem.weight": changed}
        found, _ = opened(document, _use_new_zipfile_serialization=zipped)
        assert _same(found, tensors)
    for dtype in (torch.bfloat16, torch.float16):
        document = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        found, _ = opened(document, _use_new_zipfile_serialization=zipped)
        assert _same(found, {key: tensor.float() for key, tensor in document.items()})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch_is_read(protocol, opened, tensors):
    found, _ = opened({"state_dict": tensors, "note": "x" * 300}, pickle_protocol=protocol)
    assert _same(found, tensors)


def test_the_format_is_told_by_the_content(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "b.ckpt")
    for name in ("a.safetensors", "b.ckpt"):
        assert _same(load(tmp_path / name).model.state_dict(), tensors)


@pytest.mark.parametrize("name", ["best.pth.tar", "net", "net.pkl", "net.model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_begins_as_weights_needs_no_usual_suffix(name, zipped, opened, tensors):
    assert _same(opened(tensors, name=name, _use_new_zipfile_serialization=zipped)[0], tensors)


def test_what_lies_in_place_of_weights_is_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    page = b"\n<!DOCTYPE html><html><body>Not found</body></html>"
    program = io.BytesIO()
    with zipfile.ZipFile(program, "w") as archive:  # as torch.jit.save names its records
        for record in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"net/{record}", b"\x80\2}.")
    for name, content, says in (
        ("a.pth", pointer, "is a Git LFS pointer and not the file itself, which `git lfs pull`"),
        ("a.safetensors", pointer, "is a Git LFS pointer"),
        ("a.bin", page, "is a web page"),
        ("a.txt", b"weights", r"ends in '\.txt' and begins as no weights file does"),
        ("program.pth", program.getvalue(), "is a TorchScript program; expec"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=says):
            read_layout(tmp_path / name)


def test_keys_of_another_network_are_told_with_their_beginning(opened):
    other = {f"encoder.{place}.weight": torch.zeros(2, 2) for place in range(5)}
    with pytest.raises(CheckpointError, match=r"found 5 tensors.*keys begin with 'encoder\.'"):
        opened(other)


# what is refused


def test_stored_values_that_are_repeated_are_refused(opened):
    with pytest.raises(CheckpointError, match=r"steps \(0, 0\) claims 10000 values"):
        opened({"stem.weight": torch.zeros(1).expand(100, 100)})


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_every_bomb_is_refused_in_one_line_within_2_seconds_and_300_mb(tmp_path):
    """By processor time, which a busy machine does not change; benchmarks/bombs.py has figures."""
    subprocess.run([sys.executable, str(_BOMBS), "--write", str(tmp_path)], check=True)
    program = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from mirnet_edge.cli.arguments import check_weights\n"
        "from mirnet_edge.errors import CheckpointError\n"
        "found = {}\n"
        "for file in sorted(Path(sys.argv[1]).glob('*/*')):\n"
        "    started = time.process_time()\n"
        "    try:\n"
        "        check_weights(str(file))\n"
        "    except CheckpointError as error:\n"
        "        lines = str(error).count('\\n') + 1\n"
        "        found[file.parent.name] = [time.process_time() - started, lines]\n"
        # not getrusage: a process begins with the peak of the one that started it
        "status = Path('/proc/self/status').read_text()\n"
        "peak = int(status.partition('VmHWM:')[2].split()[0]) / 1024\n"
        "print(json.dumps([found, peak, 'torch' in sys.modules]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    )
    found, peak_mb, has_torch = json.loads(answer.stdout)
    assert len(found) == len(list(tmp_path.iterdir())) > 20
    assert max(seconds for seconds, _ in found.values()) < 2
    assert {lines for _, lines in found.values()} == {1}
    assert peak_mb < 300
    assert not has_torch


def test_a_name_that_is_no_part_of_a_checkpoint_is_refused_before_anything_else(tmp_path):
    for name in ("builtins.eval", "os.system", "torch.load", "torch.nn.modules.linear.Linear"):
        module, _, function = name.rpartition(".")
        content = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"(X\x01\0\0\0atR."
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"objects beyond tensors \({name}\)"):
            read_layout(tmp_path / "a.pth")


def test_a_pickle_of_another_program_is_no_weights_file(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="it does not begin as torch's files do"):
        read_layout(tmp_path / "a.pth")
