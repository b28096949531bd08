"""MIRNet-v2 against the authors' definition, and what golden outputs cannot see."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mirnet_edge.checkpoints.families import mirnet_v2_config_from_tensors
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models.blocks import GlobalPool
from mirnet_edge.models.macs import count_parameters
from mirnet_edge.models.mirnet_v2 import DEFOCUS_TASK, ContextModule, MIRNetV2, MIRNetV2Config

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
TINY = MIRNetV2Config(channels=8, groups=1, blocks=1, conv_groups=(2,))
DEFOCUS = MIRNetV2Config(
    in_channels=6, channels=8, groups=1, blocks=1, conv_groups=(1,), task=DEFOCUS_TASK
)


def with_golden_weights(model: nn.Module) -> nn.Module:
    """Fill a model by the rule that the golden figures were made with."""
    for key, tensor in model.state_dict().items():
        random = np.random.RandomState(zlib.crc32(key.encode()))
        values = random.standard_normal(tuple(tensor.shape)).astype(np.float32)
        values *= np.float32(1.0 / np.sqrt(np.prod(tensor.shape[1:])))
        tensor.copy_(torch.from_numpy(values))
    return model.eval()


def golden_input(config: MIRNetV2Config) -> Tensor:
    """Return the image; for two views, also its channel-reversed copy."""
    random = np.random.RandomState(20200303)
    image = torch.from_numpy(random.rand(1, 3, 32, 48).astype(np.float32))
    return image if config.in_channels == 3 else torch.cat((image, image.flip(1)), 1)


@torch.no_grad()
def restored(model: nn.Module, batch: Tensor) -> Tensor:
    output = model.eval()(batch)
    assert isinstance(output, Tensor)
    return output


@dataclass(frozen=True)
class Golden:
    """Figures of the authors' definition; golden_NAME.json in the reference folder."""

    name: str
    config: MIRNetV2Config
    mean: float
    std: float
    parameters: int


# Made once by the authors' definition on CPU, float32.
GOLDENS = [
    Golden(
        name="mirnet_v2",
        config=MIRNetV2Config(channels=16, blocks=1),
        mean=1.3624367713928223,
        std=1.516412377357483,
        parameters=123_472,
    ),
    Golden(
        name="mirnet_v2_defocus",
        config=MIRNetV2Config(in_channels=6, channels=16, blocks=1, task=DEFOCUS_TASK),
        mean=-1.7444320917129517,
        std=1.973291277885437,
        parameters=123_904,
    ),
]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_output_is_that_of_the_authors_definition(golden: Golden) -> None:
    model = with_golden_weights(MIRNetV2(golden.config))
    output = restored(model, golden_input(golden.config)).numpy()
    assert output.mean() == pytest.approx(golden.mean, abs=1e-5)
    assert output.std() == pytest.approx(golden.std, abs=1e-5)
    assert count_parameters(model) == golden.parameters


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_every_value_is_that_of_the_authors_definition(golden: Golden) -> None:
    path = REFERENCE / "golden_outputs.npz"
    if not path.is_file():
        pytest.skip("whole outputs lie in ../shared/reference, which is not here")
    model = with_golden_weights(MIRNetV2(golden.config))
    output = restored(model, golden_input(golden.config))
    np.testing.assert_allclose(output.numpy(), np.load(path)[golden.name], rtol=0, atol=1e-4)


def layout(model: nn.Module) -> list[list[object]]:
    tensors = model.state_dict(keep_vars=True)
    assert len({id(tensor) for tensor in tensors.values()}) == len(tensors), "nothing is shared"
    return [[key, list(tensor.shape)] for key, tensor in tensors.items()]


def test_full_state_dict_is_that_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        rows = layout(MIRNetV2())
    assert len(rows) == 238
    # sha256 of mirnet_v2_state_dict.json's "keys" as JSON without spaces, 2026-11-23
    digest = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert digest == "dc79ccd1836b882a87dde7fa03b3615cd5b34b57b7be5d23fdc180942bc55cea"


def test_full_state_dict_key_by_key() -> None:
    path = REFERENCE / "mirnet_v2_state_dict.json"
    if not path.is_file():
        pytest.skip("the list of keys lies in ../shared/reference, which is not here")
    with torch.device("meta"):
        assert layout(MIRNetV2()) == json.loads(path.read_text())["keys"]


@dataclass(frozen=True)
class Rounding:
    """Channels of the streams, each rounded down from the exact product."""

    channels: int
    factor: float
    widths: tuple[int, int, int]


ROUNDINGS = [
    Rounding(80, 1.5, (80, 120, 180)),
    Rounding(10, 1.5, (10, 15, 22)),
    Rounding(13, 1.5, (13, 19, 29)),  # 28 where 19 is multiplied again
    Rounding(15, 1.5, (15, 22, 33)),
    Rounding(16, 1.0, (16, 16, 16)),
    Rounding(12, 1.4142, (12, 16, 23)),
    Rounding(9, 2.0, (9, 18, 36)),
]


@pytest.mark.parametrize("case", ROUNDINGS, ids=lambda case: f"{case.channels}x{case.factor}")
def test_channels_are_rounded_down_and_told_from_the_tensors(case: Rounding) -> None:
    config = MIRNetV2Config(
        channels=case.channels, channel_factor=case.factor, groups=1, blocks=1, conv_groups=(1,)
    )
    assert config.widths == case.widths
    model: Any = MIRNetV2(config)
    block = model.body[0].body[0]
    units = (block.dau_top, block.dau_mid, block.dau_bot)
    assert tuple(unit.body[0].weight.shape[0] for unit in units) == case.widths
    assert restored(model, torch.rand(1, 3, 4, 8)).shape == (1, 3, 4, 8)
    told = mirnet_v2_config_from_tensors(model.state_dict())
    assert told.widths == case.widths
    assert len(str(told.channel_factor)) <= len(str(case.factor))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        DEFOCUS,
        MIRNetV2Config(channels=16, blocks=2),
        MIRNetV2Config(channels=16, groups=2, blocks=1, conv_groups=(4, 1)),
    ],
    ids=["tiny", "defocus", "paper-groups", "two-groups"],
)
def test_the_shape_is_told_from_the_tensors(config: MIRNetV2Config) -> None:
    assert mirnet_v2_config_from_tensors(MIRNetV2(config).state_dict()) == config


def test_tensors_that_no_factor_explains_are_refused() -> None:
    tensors = MIRNetV2(TINY).state_dict()
    tensors["body.0.body.0.dau_bot.body.2.weight"] = torch.zeros(100, 100, 3, 3)
    with pytest.raises(OptionError, match="8, 12 and 100"):
        mirnet_v2_config_from_tensors(tensors)


def test_an_untouched_residual_returns_the_image_at_every_multiple() -> None:
    model = MIRNetV2(TINY)
    nn.init.zeros_(model.conv_out.weight)
    for height, width in ((4, 4), (4, 8), (12, 20), (36, 52)):
        batch = torch.rand(2, 3, height, width)
        assert torch.equal(restored(model, batch), batch)


def test_defocus_deblurring_adds_the_shallow_features_and_no_image() -> None:
    model: Any = MIRNetV2(DEFOCUS)
    batch = torch.rand(2, 6, 12, 8)
    nn.init.zeros_(model.body[0].body[-1].weight)  # the group then returns what it is given
    with torch.no_grad():
        expected = model.conv_out(2 * model.conv_in(batch))
    torch.testing.assert_close(restored(model, batch), expected)
    assert expected.shape == (2, 3, 12, 8)


def test_both_passes_share_blocks_and_fusions_but_no_ups() -> None:
    model: Any = MIRNetV2(TINY)
    calls: dict[str, int] = {}
    for name, module in model.body[0].body[0].named_children():
        module.register_forward_hook(
            lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})
        )
    restored(model, torch.rand(1, 3, 8, 8))
    twice = {"dau_top", "dau_mid", "dau_bot", "skff_top", "skff_mid"}
    assert {name for name, count in calls.items() if count == 2} == twice
    assert calls["up21_1"] == calls["up21_2"] == calls["up32_1"] == calls["up32_2"] == 1


def test_context_is_the_mean_weighted_by_the_softmax_over_all_positions() -> None:
    module = ContextModule(6)
    features = torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        weights = torch.exp(module.conv_mask(features))
        weights = weights / weights.sum((2, 3), keepdim=True)
        context = (features * weights).sum((2, 3), keepdim=True)
        expected = features + module.channel_add_conv(context)
        torch.testing.assert_close(module(features), expected)


def test_a_held_pool_replaces_the_context() -> None:
    module = ContextModule(6)
    assert isinstance(module.pool, GlobalPool)
    features, other = torch.randn(1, 6, 5, 7), torch.randn(1, 6, 9, 3)
    vectors: list[Tensor] = []
    handle = module.pool.register_forward_hook(lambda *call: vectors.append(call[-1]))
    with torch.no_grad():
        added = module(features)[..., :1, :1] - features[..., :1, :1]
        handle.remove()
        module.pool.register_forward_hook(lambda *_: vectors[0])
        torch.testing.assert_close(module(other) - other, added.expand_as(other))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 6), (6, 4), (33, 48)])
def test_sizes_that_are_no_multiple_are_refused(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(ImageError, match=rf"{width}x{height}; MIRNet-v2 takes multiples of 4"):
        MIRNetV2(TINY)(torch.rand(1, 3, height, width))


def test_defocus_deblurring_refuses_a_single_view() -> None:
    with pytest.raises(ImageError, match=r"MIRNet-v2 takes \(N, 6, H, W\)"):
        MIRNetV2(DEFOCUS)(torch.rand(1, 3, 8, 8))


@dataclass(frozen=True)
class Refused:
    id: str
    fields: dict[str, object]
    match: str


REFUSED = [
    Refused("six-channels-without-task", {"in_channels": 6}, "defocus_deblurring"),
    Refused("groups-and-numbers-differ", {"groups": 2}, "each of the 2 groups"),
    Refused("no-divisor", {"channels": 10}, "must divide"),
    Refused("zero-groups", {"groups": 0, "conv_groups": ()}, "groups must be"),
    Refused("zero-conv-groups", {"conv_groups": (1, 2, 4, 0)}, "must divide"),
    Refused("zero-blocks", {"blocks": 0}, "blocks"),
    Refused("shrinking", {"channel_factor": 0.9}, "channel_factor"),
    Refused("infinite", {"channel_factor": float("inf")}, "channel_factor"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_shapes_that_make_no_network_are_refused(case: Refused) -> None:
    with pytest.raises(OptionError, match=case.match):
        MIRNetV2Config(**case.fields)  # type: ignore[arg-type]
