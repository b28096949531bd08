"""Pruned networks are networks of their family, and keep the most important channels."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig
from mirnet_edge.models.macs import count_macs, count_parameters
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.pruning.channels import find_channel_axes, find_channel_groups
from mirnet_edge.pruning.importance import (
    magnitude_importance,
    measure_block_importance,
    random_importance,
    taylor_importance,
)
from mirnet_edge.pruning.widths import keep_blocks, prune_channels

_NETWORKS = {
    "mirnet": lambda: MIRNet(MIRNetConfig(channels=16, groups=1, blocks=2)),
    "mirnet-v2": lambda: MIRNetV2(
        MIRNetV2Config(channels=32, groups=3, blocks=1, conv_groups=(1, 2, 4))
    ),
    "keras-mirnet": lambda: KerasMIRNet(
        KerasMIRNetConfig(variant="2023", channels=16, groups=2, blocks=2)
    ),
    "keras-2021": lambda: KerasMIRNet(
        KerasMIRNetConfig(variant="2021", channels=16, groups=1, blocks=1)
    ),
    "edge": lambda: MIRNetEdge(
        MIRNetEdgeConfig(channels=(16, 24, 32), blocks=2, exposure_channels=4)
    ),
    "light": lambda: MIRNetEdge(
        MIRNetEdgeConfig(channels=(16, 24, 32), exposure_channels=4, light=True)
    ),
    "light-enlarging": lambda: MIRNetEdge(
        MIRNetEdgeConfig(channels=(16, 24, 32), stem=1, exposure_channels=0, scale=2, light=True)
    ),
    "deep-enlarging": lambda: MIRNetEdge(
        MIRNetEdgeConfig(
            channels=(16, 24, 32), depth=3, stem=1, exposure_channels=0, scale=2, light=True
        )
    ),
    "one-stream": lambda: MIRNetEdge(
        MIRNetEdgeConfig(
            channels=(16, 0, 0), depth=4, stem=1, exposure_channels=0, scale=2, light=True
        )
    ),
}


@dataclass(frozen=True)
class Narrower:
    id: str
    network: str
    changes: dict = field(hash=False)


_NARROWER = [
    Narrower("mirnet base", "mirnet", {"channels": 8}),
    Narrower(
        "mirnet inner",
        "mirnet",
        {"unit_widths": (8, 16, 24), "down_widths": (8, 24), "up_widths": (16, 8)},
    ),
    Narrower("mirnet both", "mirnet", {"channels": 8, "unit_widths": (3, 8, 8)}),
    Narrower("keras base", "keras-mirnet", {"channels": 8}),
    Narrower(
        "keras inner",
        "keras-mirnet",
        {"unit_widths": (8, 16, 24), "down_widths": (8, 24), "up_widths": (16, 8)},
    ),
    Narrower("keras 2021", "keras-2021", {"channels": 8, "unit_widths": (3, 8, 8)}),
    Narrower("v2 base", "mirnet-v2", {"channels": 16}),
    Narrower("v2 inner", "mirnet-v2", {"unit_widths": (16, 24, 40)}),
    Narrower("edge", "edge", {"channels": (8, 24, 16)}),
    Narrower("light", "light", {"channels": (8, 16, 24)}),
    Narrower("light enlarging", "light-enlarging", {"channels": (8, 16, 24)}),
    Narrower("one stream", "one-stream", {"channels": (8, 0, 0)}),
    Narrower("deep enlarging", "deep-enlarging", {"channels": (8, 16, 24)}),
]


@pytest.fixture(scope="module")
def wide():
    """Return a network to prune, with weights off their start: wide("mirnet")."""
    made = {}
    for name, build in _NETWORKS.items():
        torch.manual_seed(1)
        made[name] = build().eval()
        with torch.no_grad():
            for weight in made[name].parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return made.__getitem__


def _image(height=32, width=48):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def _loss(network):
    return (network(_image()) - 0.5).square().mean()


def _narrowed(network, changes):
    return dataclasses.replace(network.config, **changes)


@pytest.mark.parametrize("case", _NARROWER, ids=lambda case: case.id)
def test_a_pruned_network_is_smaller_and_loads_like_any_other(case, wide, tmp_path):
    network = wide(case.network)
    config = _narrowed(network, case.changes)
    smaller = prune_channels(network, config, magnitude_importance(network))
    assert smaller.config == config
    assert count_parameters(smaller) < count_parameters(network)
    assert count_macs(smaller, 32, 48) < count_macs(network, 32, 48)
    file = tmp_path / "pruned.safetensors"
    checkpoints.save(smaller, file, checkpoints.ModelCard())
    loaded = checkpoints.load(file)
    assert loaded.model.config == config
    with torch.no_grad():
        assert torch.equal(loaded.model(_image()), smaller(_image()))


@pytest.mark.parametrize("name", _NETWORKS)
def test_a_pruned_network_runs_at_every_multiple(name, wide):
    network = wide(name)
    case = next(case for case in _NARROWER if case.network == name)
    smaller = prune_channels(
        network, _narrowed(network, case.changes), random_importance(network, 0)
    )
    for rows, columns in ((1, 1), (1, 3), (2, 5)):
        size = (rows * smaller.multiple, columns * smaller.multiple)
        with torch.no_grad():
            assert smaller(_image(*size)).shape == network(_image(*size)).shape


@pytest.mark.parametrize("name", _NETWORKS)
def test_the_network_s_own_config_is_the_identity(name, wide):
    network = wide(name)
    same = prune_channels(network, network.config, random_importance(network, 0))
    assert same is not network
    for key, value in network.state_dict().items():
        assert torch.equal(same.state_dict()[key], value), key


@pytest.mark.parametrize("case", _NARROWER, ids=lambda case: case.id)
def test_channels_that_do_nothing_go_without_a_trace(case, wide):
    """Plant silent channels wherever some are to go: the image must not change at all."""
    network = prune_channels(
        wide(case.network), wide(case.network).config, magnitude_importance(wide(case.network))
    )
    config = _narrowed(network, case.changes)
    axes = find_channel_axes(network)
    groups = find_channel_groups(network.state_dict(), axes)
    narrow = find_channel_groups(type(network)(config).state_dict(), axes)
    generator = torch.Generator().manual_seed(5)
    planted = {}
    for name, group in groups.items():
        rows = torch.rand(group.parts, group.size // group.parts, generator=generator)
        gone = rows.argsort(1)[:, narrow[name].size // group.parts :]
        planted[name] = (gone + torch.arange(group.parts)[:, None] * rows.shape[1]).flatten()
    _silence(network, axes, groups, planted)
    # the mean and the maximum over channels in MIRNet's spatial attention see how many there are
    attention = [
        one
        for key, one in network.named_parameters()
        if re.search(r"SA\.spatial|(?:first|second)_\w+\.spatial\.weight", key)
    ]
    with torch.no_grad():
        for weight in attention:
            weight.zero_()
    both = [magnitude_importance, lambda one: taylor_importance(one, [_loss])]
    if isinstance(network, KerasMIRNet):
        # the softmax over channels gives a silent channel weight too, unless its bias is low,
        # which the magnitude takes for importance
        _lower_fusion_biases(network, axes, planted)
        both = both[1:]
    for scores in (score(network) for score in both):
        smaller = prune_channels(network, config, scores)
        with torch.no_grad():
            torch.testing.assert_close(smaller(_image()), network(_image()), rtol=0, atol=1e-5)
    with torch.no_grad():
        changed = prune_channels(network, config, random_importance(network, 3))(_image())
        assert (changed - network(_image())).abs().max() > 1e-4, "any channels would have done"


def _lower_fusion_biases(network, axes, planted):
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if re.search(r"fcs\.\d\.bias$", key):
                weight[planted[axes[key][0].group]] = -200.0


def _silence(network, axes, groups, planted):
    with torch.no_grad():
        for key, weight in network.named_parameters():
            for place, axis in enumerate(axes[key]):
                if axis is None:
                    continue
                size = groups[axis.group].size
                for channel in planted[axis.group].tolist():
                    if axis.parts > 1:
                        group, within = divmod(channel, size // axis.parts)
                        weight.chunk(axis.parts, 0)[group].select(1, within).zero_()
                        continue
                    for copy in range(axis.copies):
                        weight.select(place, channel + copy * size).zero_()


def test_what_mirnet_shares_stays_shared(wide):
    smaller = prune_channels(wide("mirnet"), _narrowed(wide("mirnet"), {"channels": 8}),
                     magnitude_importance(wide("mirnet")))  # fmt: skip
    block = smaller.body[0].body[0]
    assert block.blocks[1][0] is block.blocks[1][1]
    slopes = {id(unit.body[1]) for group in smaller.body[0].body[:2] for (unit, _) in group.blocks}
    assert len(slopes) == 1


@pytest.mark.parametrize("name", _NETWORKS)
def test_every_tensor_s_axes_agree_with_another_config(name, wide):
    network = wide(name)
    groups = find_channel_groups(network.state_dict(), find_channel_axes(network))
    assert all(group.size % group.parts == 0 for group in groups.values())
    assert groups["trunk"].size == {"mirnet-v2": 32}.get(name, 16)
    scores = magnitude_importance(network)
    assert {group: row.numel() for group, row in scores.items()} == {
        group: one.size for group, one in groups.items()
    }


@dataclass(frozen=True)
class Refused:
    id: str
    network: str
    changes: dict = field(hash=False)
    says: str = ""


@pytest.mark.parametrize(
    "case",
    [
        Refused("wider", "mirnet", {"channels": 24}, "expected to keep between"),
        Refused("wider inside", "mirnet", {"unit_widths": (16, 40, 64)}, "found 40"),
        Refused("other blocks", "mirnet", {"blocks": 1}, "drop blocks first"),
    ],
    ids=lambda case: case.id,
)
def test_what_cannot_be_kept_is_refused(case, wide):
    network = wide(case.network)
    with pytest.raises(OptionError, match=case.says):
        prune_channels(network, _narrowed(network, case.changes), magnitude_importance(network))


# --- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mirnet", "edge"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_dropped_block_lets_its_input_pass(name, kept, wide):
    network = wide(name)
    shorter = keep_blocks(network, [[kept]])
    assert shorter.config == dataclasses.replace(network.config, blocks=1)
    skipped = prune_channels(network, network.config, magnitude_importance(network))
    blocks = skipped.blocks if name == "edge" else skipped.body[0].body
    blocks[1 - kept] = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(shorter(_image()), skipped(_image()), rtol=0, atol=1e-6)


def test_whole_groups_are_dropped_with_their_grouping(wide):
    shorter = keep_blocks(wide("mirnet-v2"), [[0], [], [0]])
    assert (shorter.config.groups, shorter.config.conv_groups) == (2, (1, 4))


def test_a_dropped_group_takes_its_first_convolution_along(wide):
    network = wide("keras-mirnet")
    shorter = keep_blocks(network, [[], [0, 1]])
    assert (shorter.config.groups, shorter.config.blocks) == (1, 2)
    skipped = prune_channels(network, network.config, magnitude_importance(network))
    skipped.body[0] = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(shorter(_image()), skipped(_image()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [[[]], [[0], [], [0, 1]]], ids=["nothing", "unequal"])
def test_blocks_that_make_no_network_are_refused(kept, wide):
    with pytest.raises(OptionError, match="equally many blocks in each group"):
        keep_blocks(wide("mirnet"), kept)


@pytest.mark.parametrize("name", ["mirnet", "mirnet-v2", "keras-mirnet"])
def test_a_block_that_adds_nothing_is_useless(name, wide):
    network = prune_channels(wide(name), wide(name).config, magnitude_importance(wide(name)))
    silent = network.body[-1].body[network.config.blocks - 1]
    with torch.no_grad():
        for weight in silent.conv_out.parameters():
            weight.zero_()
    usefulness = measure_block_importance(network, [_loss])
    assert [len(row) for row in usefulness] == [network.config.blocks] * network.config.groups
    assert usefulness[-1][-1] == 0.0
    assert any(value != 0.0 for row in usefulness for value in row)


def test_the_blocks_of_the_edge_network_are_measured_each(wide):
    network = wide("edge")
    gains = []
    for place in range(2):
        with torch.no_grad():
            gains.append(float(_loss(keep_blocks(network, [[1 - place]])) - _loss(network)))
    assert measure_block_importance(network, [_loss])[0] == pytest.approx(gains, abs=1e-6)


def test_importance_needs_a_batch(wide):
    with pytest.raises(OptionError, match="at least one batch"):
        taylor_importance(wide("mirnet"), [])
    with pytest.raises(OptionError, match="at least one batch"):
        measure_block_importance(wide("mirnet"), [])
