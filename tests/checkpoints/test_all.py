"""Weights from anywhere: ours come back whole, and everything else is refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor, nn

from mirnet_edge.checkpoints import ModelCard, list_shipped_weights, load, resolve, save, store
from mirnet_edge.errors import CheckpointError, MirnetEdgeError
from mirnet_edge.models import (
    KerasMIRNet,
    KerasMIRNetConfig,
    MIRNet,
    MIRNetConfig,
    MIRNetEdge,
    MIRNetEdgeConfig,
    MIRNetV2,
    MIRNetV2Config,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = MIRNetConfig(channels=8, groups=1, blocks=1)
TINY_V2 = MIRNetV2Config(channels=8, groups=1, blocks=1, conv_groups=(2,))
TINY_EDGE = MIRNetEdgeConfig(channels=(8, 12, 16), blocks=1, exposure_channels=4)
TINY_TWICE = MIRNetEdgeConfig(channels=(8, 12, 16), stem=2, exposure_channels=0, scale=2)


@dataclass(frozen=True)
class Network:
    id: str
    build: Callable[[], Any]
    architecture: str
    told: bool = True
    """Whether the tensors alone tell the whole config."""


NETWORKS = [
    Network("mirnet", lambda: MIRNet(TINY), "mirnet"),
    Network(
        "mirnet-deep",
        lambda: MIRNet(MIRNetConfig(channels=10, groups=2, blocks=1, streams=2, columns=3)),
        "mirnet",
    ),
    Network("mirnet-v2", lambda: MIRNetV2(TINY_V2), "mirnet-v2"),
    Network(
        "defocus",
        lambda: MIRNetV2(
            MIRNetV2Config(
                in_channels=6,
                channels=8,
                groups=2,
                blocks=1,
                conv_groups=(1, 2),
                task="defocus_deblurring",
            )
        ),
        "mirnet-v2",
    ),
    Network(
        "odd-factor",
        lambda: MIRNetV2(
            MIRNetV2Config(
                channels=12,
                channel_factor=1.41421356,
                groups=1,
                blocks=1,
                conv_groups=(1,),
                task="real_denoising",
            )
        ),
        "mirnet-v2",
        told=False,
    ),
    Network(
        "keras-2021",
        lambda: KerasMIRNet(KerasMIRNetConfig(variant="2021", channels=8, groups=2, blocks=1)),
        "keras-mirnet",
    ),
    Network(
        "keras-2023",
        lambda: KerasMIRNet(
            KerasMIRNetConfig(
                variant="2023",
                channels=12,
                groups=1,
                blocks=2,
                unit_widths=(8, 24, 24),
                down_widths=(4, 24),
                up_widths=(24, 8),
            )
        ),
        "keras-mirnet",
    ),
    Network("edge", lambda: MIRNetEdge(TINY_EDGE), "edge"),
    Network("edge-twice", lambda: MIRNetEdge(TINY_TWICE), "edge"),
    Network(
        "edge-no-exposure",
        lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), blocks=2, exposure_channels=0)),
        "edge",
    ),
    Network(
        "edge-light",
        lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4, light=True)),
        "edge",
    ),
    Network(
        "edge-light-all-pixels",
        lambda: MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 8, 8), stem=1, exposure_channels=0, scale=2, light=True)
        ),
        "edge",
    ),
    Network(
        "edge-one-stream",
        lambda: MIRNetEdge(
            MIRNetEdgeConfig(
                channels=(8, 0, 0), depth=3, stem=1, exposure_channels=0, scale=2, light=True
            )
        ),
        "edge",
    ),
    Network(
        "edge-exposure-ensemble",
        lambda: MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 8, 8), exposure_channels=2, exposure_members=3)
        ),
        "edge",
    ),
    Network(
        "edge-all-pixels",
        lambda: MIRNetEdge(
            MIRNetEdgeConfig(channels=(8, 8, 8), stem=1, exposure_channels=2, scale=3)
        ),
        "edge",
    ),
]
networks = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.id)


def refusal(path: str | Path) -> str:
    """Return the one line that loading PATH fails with."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def written(path: Path, document: object) -> Path:
    torch.save(document, path)
    return path


def same_tensors(left: nn.Module, right: nn.Module) -> bool:
    theirs = right.state_dict()
    ours = left.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@networks
def test_saved_weights_come_back_whole(network: Network, tmp_path: Path) -> None:
    model = network.build()
    path = tmp_path / "weights.safetensors"
    card = ModelCard(
        task="low-light", trained_on="pairs", figures={"psnr_db": 21.5}, recipe={"lr": [1]}
    )
    save(model.train(), path, card)
    loaded = load(path)
    assert type(loaded.model) is type(model)
    assert loaded.model.config == model.config
    assert same_tensors(loaded.model, model)
    assert not loaded.model.training
    assert loaded.architecture == loaded.card.architecture == network.architecture
    assert loaded.card.model_copy(update={"architecture": None, "config": {}}) == card
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.notice is None


@networks
def test_a_bare_state_dict_tells_the_network(network: Network, tmp_path: Path) -> None:
    model = network.build()
    loaded = load(written(tmp_path / "net.pth", model.state_dict()))
    assert same_tensors(loaded.model, model)
    assert (loaded.model.config == model.config) is network.told
    assert loaded.architecture == network.architecture
    assert loaded.card.config["channels"] == load_ready(model.config.channels)
    assert loaded.card.task == ("defocus_deblurring" if network.id == "defocus" else "unknown")


def test_a_network_that_enlarges_is_built_to_enlarge_again(tmp_path: Path) -> None:
    save(MIRNetEdge(TINY_TWICE), tmp_path / "net.safetensors", ModelCard(task="super-resolution"))
    model: Any = load(tmp_path / "net.safetensors").model
    assert (model.config.scale, model.config.stem, model.exposure) == (2, 2, None)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 16, 24)).shape == (1, 3, 32, 48)


def load_ready(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_the_authors_terms_are_told_for_files_without_our_card(tmp_path: Path) -> None:
    for model in (MIRNet(TINY), MIRNetV2(TINY_V2)):
        loaded = load(written(tmp_path / "net.pth", model.state_dict()))
        assert loaded.notice is not None
        assert "non-commercial" in loaded.notice
        assert "non-commercial" in str(loaded.card.license)
    loaded = load(written(tmp_path / "net.pth", MIRNetEdge(TINY_EDGE).state_dict()))
    assert loaded.notice is None
    assert loaded.card.license is None


def test_sharing_survives(tmp_path: Path) -> None:
    save(MIRNet(TINY), tmp_path / "net.safetensors", ModelCard())
    model: Any = load(tmp_path / "net.safetensors").model
    block = model.body[0].body[0]
    assert block.blocks[1][0] is block.blocks[1][1]
    assert block.blocks[0][0].body[1] is block.blocks[2][0].body[1]


def test_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    model = MIRNet(TINY)
    save(model, tmp_path / "net.safetensors", ModelCard())
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        stored = set(file.keys())
    assert not any(".blocks.0.1." in key for key in stored)
    assert len(stored) == len({id(tensor) for tensor in model.state_dict(keep_vars=True).values()})


def test_shared_tensors_that_a_library_dropped_are_found_again(tmp_path: Path) -> None:
    model = MIRNet(TINY)
    safetensors.torch.save_model(model, str(tmp_path / "net.safetensors"))
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.model.config == TINY
    assert same_tensors(loaded.model, model)


def separate(model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict in which nothing shares memory."""
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def test_shared_tensors_stored_apart_must_agree(tmp_path: Path) -> None:
    model = MIRNet(TINY)
    tensors = separate(model)
    assert same_tensors(load(written(tmp_path / "net.pth", tensors)).model, model)
    changed = "body.0.body.0.blocks.1.1.body.2.weight"
    tensors[changed][0, 0, 0, 0] += 1
    message = refusal(written(tmp_path / "net.pth", tensors))
    assert changed in message
    assert "body.0.body.0.blocks.1.0.body.2.weight" in message


@dataclass(frozen=True)
class Wrapping:
    id: str
    wrap: Callable[[dict[str, Tensor]], object]


def other(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}


WRAPPINGS = [
    Wrapping("state-dict", lambda tensors: {"epoch": 3, "state_dict": tensors}),
    Wrapping("params", lambda tensors: {"params": tensors}),
    Wrapping("smoothed", lambda tensors: {"params": other(tensors), "params_ema": tensors}),
    Wrapping("model", lambda tensors: {"model": tensors, "optimizer": {"lr": 1.0}}),
    Wrapping("nested", lambda tensors: {"model": {"state_dict": tensors}}),
    Wrapping("parallel", lambda t: OrderedDict((f"module.{key}", t[key]) for key in t)),
    Wrapping(
        "compiled", lambda t: {"state_dict": {f"module._orig_mod.{key}": t[key] for key in t}}
    ),
    Wrapping("half", lambda tensors: {key: tensor.half() for key, tensor in tensors.items()}),
    Wrapping(
        "no-blur",
        lambda tensors: {key: tensors[key] for key in tensors if not key.endswith(".filt")},
    ),
]


@pytest.mark.parametrize("wrapping", WRAPPINGS, ids=lambda wrapping: wrapping.id)
def test_wrapped_state_dicts_are_unwrapped(wrapping: Wrapping, tmp_path: Path) -> None:
    model = MIRNet(TINY).half().float()  # values that survive half precision
    loaded = load(written(tmp_path / "net.pt", wrapping.wrap(separate(model))))
    assert same_tensors(loaded.model, model)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}


@dataclass(frozen=True)
class Damage:
    """A change to a good MIRNet state dict, and what the message must name."""

    id: str
    change: Callable[[dict[str, Any]], object]
    named: tuple[str, ...]


FIRST = "conv_in.weight"
UNIT = "body.0.body.0.blocks.0.0.conv1x1.weight"
BLUR = "body.0.body.0.down.8_2.body.0.bot.0.filt"
GROUP = "body.0.body.1.weight"

DAMAGES = [
    Damage("nan", lambda t: t[FIRST].view(-1)[5].fill_(float("nan")), (FIRST, "1 values", "NaN")),
    Damage("infinite", lambda t: t[GROUP].fill_(float("-inf")), (GROUP, "infinite")),
    Damage("missing", lambda t: t.pop(GROUP), ("1 missing", GROUP)),
    Damage("no-first", lambda t: t.pop(FIRST), (FIRST, "missing")),
    Damage("unexpected", lambda t: t.update(extra=t[FIRST]), ("1 unexpected", "'extra'")),
    Damage(
        "misshapen",
        lambda t: t.update({GROUP: torch.zeros(8, 8, 1, 1)}),
        (GROUP, "(8, 8, 3, 3)", "(8, 8, 1, 1)"),
    ),
    Damage("vector", lambda t: t.update({FIRST: torch.zeros(8)}), ("make no such network",)),
    Damage("four-colors", lambda t: t.update({FIRST: torch.zeros(8, 4, 3, 3)}), ("in_channels",)),
    Damage("integers", lambda t: t.update({GROUP: t[GROUP].int()}), (GROUP, "torch.int32")),
    Damage("sparse", lambda t: t.update({GROUP: t[GROUP].to_sparse()}), (GROUP, "sparse")),
    Damage("blur", lambda t: t[BLUR].mul_(2), (BLUR, "[1, 2, 1]")),
    Damage("twice", lambda t: t.update({f"module.{FIRST}": t[FIRST]}), (FIRST, "module.")),
    Damage("line-break", lambda t: t.update({"a\nb\x1b[1m": t[FIRST]}), (r"'a\nb\x1b[1m'",)),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_weights_that_do_not_fit_are_refused_by_name(damage: Damage, tmp_path: Path) -> None:
    tensors = separate(MIRNet(TINY))
    damage.change(tensors)
    message = refusal(written(tmp_path / "net.pth", tensors))
    for part in damage.named:
        assert part in message


def test_a_branch_that_is_not_whole_is_not_taken_for_none(tmp_path: Path) -> None:
    tensors = separate(MIRNetEdge(TINY_EDGE))
    del tensors["exposure.features.0.weight"]
    message = refusal(written(tmp_path / "net.pth", tensors))
    assert "'exposure.features.0.weight' is missing" in message
    tensors = separate(MIRNetEdge(TINY_EDGE))
    del tensors["exposure.decide.2.bias"]
    assert "1 missing: 'exposure.decide.2.bias'" in refusal(written(tmp_path / "net.pth", tensors))


def test_a_branch_that_the_card_knows_of_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors = separate(MIRNetEdge(TINY_EDGE))
    bare = {key: tensors[key] for key in tensors if not key.startswith("exposure.")}
    safetensors.torch.save_file(
        bare, path, metadata={"card": '{"config": {"exposure_channels": 4}}'}
    )
    assert "'exposure_channels' is '4'" in refusal(path)
    safetensors.torch.save_file(bare, path)
    loaded: Any = load(path).model
    assert loaded.config.exposure_channels == 0


@pytest.mark.parametrize("factor", [3, 5, 10])
def test_a_head_that_fits_no_scale_is_refused(factor: int, tmp_path: Path) -> None:
    tensors = separate(MIRNetEdge(TINY_TWICE))  # its head gives 4 x 4 pixels for 2 x 2
    tensors["head.weight"] = torch.zeros(4 * factor**2, 8, 3, 3)
    tensors["head.bias"] = torch.zeros(4 * factor**2)
    refusal(written(tmp_path / "net.pth", tensors))


def test_many_faults_are_counted_and_only_the_first_named(tmp_path: Path) -> None:
    tensors = separate(MIRNetV2(TINY_V2))
    gone = [key for key in tensors if ".skff_mid." in key or ".up" in key]
    for key in gone:
        del tensors[key]
    message = refusal(written(tmp_path / "net.pth", tensors))
    assert f"{len(gone)} missing" in message
    assert gone[2] in message
    assert gone[3] not in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_networks_are_refused(suffix: str, tmp_path: Path) -> None:
    tensors = {"layer1.0.conv1.weight": torch.zeros(4, 3, 3, 3), "fc.weight": torch.zeros(10, 4)}
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    message = refusal(path)
    assert "not a MIRNet, MIRNet-v2, Keras MIRNet or MIRNetEdge checkpoint" in message
    assert "fc.weight" in message


class Intruder:
    """Creates a file when a careless program unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_refused_and_never_runs(form: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "was-here", tmp_path / "net.pth"
    document = {"state_dict": separate(MIRNet(TINY)), "extra": Intruder(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(document["extra"]))
    else:
        torch.save(document, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(path)
    assert "objects beyond tensors" in message
    assert "torch.save(model.state_dict()" in message
    assert not mark.exists()
    pickle.loads(pickle.dumps(Intruder(mark)))
    assert mark.exists(), "the intruder would have left its mark"


def test_a_pickled_network_is_named_and_refused(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "net.pt", nn.Linear(2, 2)))
    assert "torch.nn.modules.linear.Linear" in message


def bytes_of_pth() -> bytes:
    stream = io.BytesIO()
    torch.save(MIRNetEdge(TINY_EDGE).state_dict(), stream)
    return stream.getvalue()


def bytes_of_safetensors() -> bytes:
    return safetensors.torch.save(separate(MIRNetEdge(TINY_EDGE)))


@dataclass(frozen=True)
class BrokenFile:
    id: str
    name: str
    payload: Callable[[], bytes]
    match: str


BROKEN = [
    BrokenFile("empty", "net.pth", lambda: b"", "is empty"),
    BrokenFile("empty-safetensors", "net.safetensors", lambda: b"", "is empty"),
    BrokenFile(
        "text", "net.pth", lambda: b"hello, this is no checkpoint\n", "is damaged or no .pth"
    ),
    BrokenFile("page", "net.safetensors", lambda: b"<!DOCTYPE html>" * 9, "is a web page: that is"),
    BrokenFile("half-pth", "net.pth", lambda: bytes_of_pth()[:-3000], "is damaged"),
    BrokenFile("half", "net.safetensors", lambda: bytes_of_safetensors()[:-40], "is damaged"),
    BrokenFile("onnx", "net.onnx", lambda: b"1234", "ends in '.onnx'"),
    BrokenFile("bare", "net", lambda: b"1234", "ends in ''"),
    BrokenFile("list", "net.pt", lambda: pickle.dumps([1, 2], protocol=2), "damaged|holds a list"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.id)
def test_broken_files_are_refused(broken: BrokenFile, tmp_path: Path) -> None:
    path = tmp_path / broken.name
    path.write_bytes(broken.payload())
    with pytest.raises(CheckpointError, match=broken.match):
        load(path)
    assert "expected" in refusal(path)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "net.pth")
    assert "does not exist" in refusal(str(tmp_path / "net.safetensors"))


def test_documents_that_are_no_state_dicts_are_refused(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    assert "no tensor under 'state_dict'" in refusal(written(tmp_path / "net.pth", endless))
    assert "holds a list" in refusal(written(tmp_path / "net.pth", [torch.zeros(3)]))
    assert "holds nothing" in refusal(written(tmp_path / "net.pth", {}))
    assert "no tensor under 'params'" in refusal(written(tmp_path / "net.pth", {"params": {}}))
    assert "no tensor under a name" in refusal(written(tmp_path / "net.pth", {3: torch.zeros(3)}))


def test_depths_that_a_file_cannot_have_are_refused_at_once(tmp_path: Path) -> None:
    tensors = separate(MIRNetEdge(TINY_EDGE))
    tensors["blocks.99999999.top.body.0.weight"] = torch.zeros(1)
    assert "blocks would be 100000000" in refusal(written(tmp_path / "net.pth", tensors))


def with_card(path: Path, text: str) -> Path:
    tensors = separate(MIRNet(TINY))
    safetensors.torch.save_file(tensors, path, metadata={"card": text})
    return path


@dataclass(frozen=True)
class BadCard:
    id: str
    text: str
    named: tuple[str, ...]


BAD_CARDS = [
    BadCard("no-json", "{", ("card", "schema version 2")),
    BadCard("next-schema", '{"schema_version": 3}', ("schema_version",)),
    BadCard("unknown-key", '{"color": "red"}', ("'color'",)),
    BadCard("wrong-type", '{"figures": {"psnr_db": "high"}}', ("psnr_db",)),
    BadCard("other-network", '{"architecture": "edge"}', ("edge", "MIRNet")),
    BadCard("other-channels", '{"config": {"channels": 64}}', ("'channels' is '64'", "say 8")),
    BadCard("no-such-setting", '{"config": {"depth": 2}}', ("'depth'", "no such setting")),
    BadCard("columns-text", '{"config": {"columns": "many"}}', ("makes no network", "columns")),
    BadCard("no-columns", '{"config": {"columns": 0}}', ("makes no network", "columns")),
    BadCard("huge", '{"config": {"columns": 1000000000}}', ("columns would be 1000000000",)),
]


@pytest.mark.parametrize("bad", BAD_CARDS, ids=lambda bad: bad.id)
def test_cards_that_do_not_fit_are_refused(bad: BadCard, tmp_path: Path) -> None:
    message = refusal(with_card(tmp_path / "net.safetensors", bad.text))
    for part in bad.named:
        assert part in message


def test_a_card_cannot_widen_a_network(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for factor in ("1e300", "1e12", "2.0"):
        safetensors.torch.save_file(
            separate(MIRNetV2(TINY_V2)),
            path,
            metadata={"card": f'{{"config": {{"channel_factor": {factor}}}}}'},
        )
        refusal(path)


def test_cards_are_strict_and_fixed() -> None:
    with pytest.raises(ValidationError, match="color"):
        ModelCard(color="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="finite"):
        ModelCard(figures={"psnr_db": float("inf")})
    with pytest.raises(ValidationError, match="frozen"):
        ModelCard().task = "denoise"  # type: ignore[misc]


def test_the_weights_it_was_trained_from_and_after_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    card = ModelCard(parent="a" * 64, teacher="b" * 64)
    save(MIRNetEdge(TINY_EDGE), path, card)
    loaded = load(path)
    assert (loaded.card.parent, loaded.card.teacher) == ("a" * 64, "b" * 64)
    again = tmp_path / "again.safetensors"
    save(loaded.model, again, loaded.card)
    assert again.read_bytes() == path.read_bytes()
    assert (ModelCard().parent, ModelCard().teacher) == (None, None)


@pytest.mark.parametrize("key", ["parent", "teacher"])
def test_what_is_no_digest_at_all_is_refused(key: str, tmp_path: Path) -> None:
    message = refusal(with_card(tmp_path / "net.safetensors", f'{{"{key}": 7}}'))
    assert key in message


def test_a_card_from_before_parents_and_teachers_loads(tmp_path: Path) -> None:
    model, path = MIRNetEdge(TINY_EDGE), tmp_path / "net.safetensors"
    save(model, path, ModelCard(task="denoise", data_sha256="c" * 64, revision="abc"))
    with safe_open(path, framework="pt") as file:
        written_card = json.loads(file.metadata()["card"])
    assert written_card.pop("parent") is None
    assert written_card.pop("teacher") is None
    safetensors.torch.save_file(separate(model), path, metadata={"card": json.dumps(written_card)})
    loaded = load(path)
    assert loaded.card.task == "denoise"
    assert loaded.card.data_sha256 == "c" * 64
    assert (loaded.card.parent, loaded.card.teacher) == (None, None)
    assert loaded.model.config == TINY_EDGE


def test_a_card_of_schema_1_is_read_and_saved_as_one_of_today(tmp_path: Path) -> None:
    path = with_card(tmp_path / "net.safetensors", '{"schema_version": 1, "licence": "CC0-1.0"}')
    card = load(path).card
    assert (card.schema_version, card.license) == (2, "CC0-1.0")


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    model = MIRNetEdge(TINY_EDGE)
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    save(model, paths[0], ModelCard(recipe={"a": 1, "b": 2}))
    save(load(paths[0]).model, paths[1], ModelCard(recipe={"b": 2, "a": 1}))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_loaded_card_can_be_saved_again(tmp_path: Path) -> None:
    save(MIRNet(TINY), tmp_path / "one.safetensors", ModelCard(task="denoise"))
    loaded = load(tmp_path / "one.safetensors")
    save(loaded.model, tmp_path / "two.safetensors", loaded.card)
    assert load(tmp_path / "two.safetensors").sha256 == loaded.sha256


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.safetensors"
    save(MIRNetEdge(TINY_EDGE), path, ModelCard(task="first"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises((OSError, MirnetEdgeError)):
        save(MIRNetEdge(TINY_EDGE), path, ModelCard(task="second"))
    assert load(path).card.task == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = MIRNet(TINY)
    with pytest.raises(CheckpointError, match="found a Linear"):
        save(nn.Linear(2, 2), path, ModelCard())
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        save(model, tmp_path / "net.pth", ModelCard())
    with pytest.raises(CheckpointError, match="card says architecture edge"):
        save(model, path, ModelCard(architecture="edge"))
    with pytest.raises(CheckpointError, match="card says config"):
        save(model, path, ModelCard(config={"channels": 64}))
    with pytest.raises(CheckpointError, match="not finite"):
        save(model, path, ModelCard(recipe={"loss": float("nan")}))
    model.conv_out = nn.Conv2d(8, 5, 3)
    with pytest.raises(CheckpointError, match=r"conv_out.bias"):
        save(model, path, ModelCard())
    model = MIRNet(TINY)
    nn.init.constant_(model.conv_out.weight, float("nan"))
    with pytest.raises(CheckpointError, match=r"'conv_out.weight' holds 216 values"):
        save(model, path, ModelCard())
    assert not list(tmp_path.iterdir())


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    save(MIRNetEdge(TINY_EDGE), tmp_path / "net.safetensors", ModelCard())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(tmp_path / "net.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_shipped_names_stand_for_package_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve("some/where.pth") == Path("some/where.pth")
    folder = Path(sys.modules["mirnet_edge.models"].__file__ or "").parents[1] / "weights"
    assert store._SHIPPED_FOLDER.resolve() == folder.resolve()
    monkeypatch.setattr(store, "_SHIPPED_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="it ships: none"):
        resolve("shipped:low-light")
    for name in ("low-light", "denoise"):
        save(MIRNetEdge(TINY_EDGE), tmp_path / f"{name}.safetensors", ModelCard(task=name))
    assert list_shipped_weights() == ["denoise", "low-light"]
    assert resolve("shipped:low-light") == tmp_path / "low-light.safetensors"
    assert load("shipped:low-light").card.task == "low-light"
    for unknown in ("shipped:dehaze", "shipped:", "shipped:../low-light"):
        with pytest.raises(CheckpointError, match="shipped:denoise, shipped:low-light"):
            load(unknown)
