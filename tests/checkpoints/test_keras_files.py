"""Weights of Keras load from every layout with all values in place; damage is refused."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import keras_layouts as layouts

from mirnet_edge.checkpoints import load
from mirnet_edge.checkpoints.crc32c import crc32c
from mirnet_edge.checkpoints.keras_layers import GRANULARITIES
from mirnet_edge.cli.arguments import check_weights
from mirnet_edge.errors import CheckpointError, MissingDependencyError

_SMALL = {
    "2021": {"channels": 8, "groups": 2, "blocks": 1},
    "2023": {"channels": 12, "groups": 1, "blocks": 1},
}


@pytest.fixture(scope="module")
def network_of_variant():
    made = {name: layouts.make_network(variant=name, **sizes) for name, sizes in _SMALL.items()}
    return made.__getitem__


def _numbered(**options):
    return lambda folder, net: layouts.write_numbered(folder / "a.weights.h5", net, **options)


def _legacy(**options):
    return lambda folder, net: layouts.write_legacy(folder / "a.h5", net, **options)


_LAYOUTS = {
    "keras 2 weights": _legacy(),
    "first session": _legacy(first=0),
    "long session": _legacy(first=98_990),
    "keras 2 model": _legacy(root="model_weights", optimizer=True),
    "keras 2 nested": _legacy(root="model_weights/model_3"),
    "keras 3 h5": _legacy(root="model_weights", colon=""),
    "float64": _legacy(dtype="f8"),
    "numbered": _numbered(),
    "numbered, nested": _numbered(root="layers/functional_1/"),
    "tf-keras": _numbered(root="_layer_checkpoint_dependencies/model/", named=False),
    **{
        f"no names, {one.activations_apart}, {one.channel_pooling}": _numbered(
            named=False, granularity=one
        )
        for one in GRANULARITIES
    },
    "archive": lambda folder, net: layouts.write_archive(folder / "a.keras", net),
    "compressed archive": lambda folder, net: layouts.write_archive(
        folder / "a.keras", net, compression=zipfile.ZIP_DEFLATED
    ),
    "archive without names": lambda folder, net: layouts.write_archive(
        folder / "a.keras", net, names=False
    ),
    "saved model": lambda folder, net: layouts.write_saved_model(folder / "a", net),
    "saved model without names": lambda folder, net: layouts.write_saved_model(
        folder / "a", net, named=False
    ),
}


@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        *((layout, ("2021", "2023")[place % 2]) for place, layout in enumerate(_LAYOUTS)),
        ("keras 2 weights", "2023"),
        ("numbered", "2021"),
    ],
)
def test_every_layout_gives_the_same_network(layout, variant, network_of_variant, tmp_path):
    network = network_of_variant(variant)
    loaded = load(_LAYOUTS[layout](tmp_path, network))
    assert loaded.model.config == network.config
    assert (loaded.architecture, loaded.notice) == ("keras-mirnet", None)
    found = loaded.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_half_floats_load_as_they_are_rounded(network_of_variant, tmp_path):
    network = network_of_variant("2021")
    found = load(layouts.write_legacy(tmp_path / "a.h5", network, dtype="f2")).model.state_dict()
    assert all(
        torch.equal(found[key], value.half().float()) for key, value in network.state_dict().items()
    )


def test_a_saved_model_is_named_by_any_of_its_files(network_of_variant, tmp_path):
    folder = layouts.write_saved_model(tmp_path / "a", network_of_variant("2023"))
    loaded = [
        load(folder / name)
        for name in ("saved_model.pb", "variables", "variables/variables.index")
    ]  # fmt: skip
    assert len({one.sha256 for one in loaded}) == 1


def test_the_commands_take_every_kind_of_file(network_of_variant, tmp_path):
    network = network_of_variant("2021")
    check_weights(str(layouts.write_legacy(tmp_path / "a.h5", network)))
    check_weights(str(layouts.write_archive(tmp_path / "a.keras", network)))
    check_weights(str(layouts.write_saved_model(tmp_path / "a", network)))
    with pytest.raises(CheckpointError, match="is a folder"):
        check_weights(str(tmp_path))


def _edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def _external(file):
    del file["conv2d_20"]
    file["conv2d_20"] = h5py.ExternalLink("/etc/other.h5", "/")


def _claim(file):
    group = file["conv2d_20/conv2d_20"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", (3, 3, 2**20, 2**20), "f4", chunks=(3, 3, 64, 64))


def _integers(file):
    group = file["conv2d_20/conv2d_20"]
    values = group["kernel:0"][()]
    del group["kernel:0"]
    group["kernel:0"] = values.astype("i1")


def _not_finite(file):
    file["conv2d_20/conv2d_20/bias:0"][0] = np.nan


def _slopes(file):
    file["p_re_lu/p_re_lu/alpha:0"] = np.zeros((1, 1, 8), np.float32)


def _swap(file):
    file.move("conv2d_18/conv2d_18", "spare")  # 3x3
    file.move("conv2d_19/conv2d_19", "conv2d_18/conv2d_18")  # 1x1
    file.move("spare", "conv2d_19/conv2d_19")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file.pop("conv2d_20"), "has 171 convolutions.*506 or 638"),
        (lambda file: file.pop("conv2d_17"), "found 0 among 171 convolutions"),
        (_external, "is a link to another place or file"),
        (lambda file: file.__setitem__("b", h5py.SoftLink("/conv2d_20")), "is a link"),
        (_claim, "claims 39582418599936 bytes .* the file holds 0 of them"),
        (_integers, "is int8; expected floats"),
        (_not_finite, "holds 1 values that are NaN"),
        (_slopes, "'p_re_lu/p_re_lu' holds 'alpha:0'; expected kernel and bias"),
        (_swap, "but not their shapes: 'conv2d_"),
    ],
    ids=["layer", "stem", "external", "soft", "claim", "int8", "nan", "prelu", "swap"],
)
def test_a_changed_file_is_refused(change, says, network_of_variant, tmp_path):
    path = layouts.write_legacy(tmp_path / "a.h5", network_of_variant("2021"))
    _edit(path, change)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5", "a.keras"])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\5\6" + bytes(18), None], ids=repr)
def test_other_files_are_refused(name, content, network_of_variant, tmp_path):
    path = tmp_path / name
    if content is None:  # half a file
        write = layouts.write_archive if name == "a.keras" else layouts.write_legacy
        content = write(path, network_of_variant("2021")).read_bytes()[:40_000]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"empty|damaged|without model\.weights\.h5"):
        load(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(64 << 20))
    with pytest.raises(CheckpointError, match="would unpack to 67108864 bytes"):
        load(path)


@pytest.mark.parametrize(
    ("name", "place", "says"),
    [
        ("variables.index", 300, "a block does not match its checksum"),
        ("variables.index", -3, "no magic number"),
        ("variables.data-00000-of-00001", 30, "do not match their checksum"),
    ],
)
def test_one_flipped_byte_of_a_saved_model_is_found(
    name, place, says, network_of_variant, tmp_path
):
    folder = layouts.write_saved_model(tmp_path / "a", network_of_variant("2021"))
    file = folder / "variables" / name
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load(folder)


def test_a_saved_model_without_all_its_values_is_refused(network_of_variant, tmp_path):
    folder = layouts.write_saved_model(tmp_path / "a", network_of_variant("2021"))
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is damaged"):
        load(folder)
    data.unlink()
    with pytest.raises(CheckpointError, match="has no data file beside it"):
        load(folder)


def test_a_missing_h5py_is_named_with_its_extra(network_of_variant, tmp_path, monkeypatch):
    path = layouts.write_legacy(tmp_path / "a.h5", network_of_variant("2021"))
    real = sys.modules.pop("h5py")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    try:
        with pytest.raises(MissingDependencyError, match=r'pip install "mirnet-edge\[keras\]"'):
            load(path)
    finally:
        sys.modules["h5py"] = real


def test_the_checksum_is_crc_32c():
    # RFC 3720, appendix B.4, and the usual check value
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    data = bytes(range(256)) * 41
    by_bytes = crc32c(b"")
    assert by_bytes == 0
    assert crc32c(data) == _bit_by_bit(data)


def _bit_by_bit(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF
