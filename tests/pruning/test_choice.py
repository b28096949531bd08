"""Which widths are free, and which of them go for a target."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.errors import OptionError
from mirnet_edge.models.edge import MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2Config
from mirnet_edge.pruning.importance import magnitude_importance
from mirnet_edge.pruning.widths import (
    BaseTiming,
    choose_widths,
    list_base_configs,
    list_free_widths,
    replace_widths,
    sum_removed_importance,
)

_FULL = MIRNetConfig(channels=16, groups=1, blocks=1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MIRNet(_FULL)


def _bases():
    """A network of 100 ms in which each removed channel saves 0.4 ms."""
    found = []
    for config, ms in zip(list_base_configs(_FULL, 8), (100.0, 40.0), strict=True):
        saved = {
            (knob, value): 0.4 * (knob.values[0] - value)
            for knob in list_free_widths(config, 8)
            for value in knob.values[1:]
        }
        found.append(BaseTiming(config, ms, saved))
    return found


def test_a_trunk_is_narrowed_in_steps_and_what_makes_no_network_is_left_out():
    assert [config.channels for config in list_base_configs(_FULL, 8)] == [16, 8]
    v2 = MIRNetV2Config(channels=32, groups=2, conv_groups=(1, 4))
    assert [config.channels for config in list_base_configs(v2, 8)] == [
        32,
        16,
    ]  # 24, 36, 54 by 4 is none
    edge = MIRNetEdgeConfig(channels=(16, 24, 32))
    assert list_base_configs(edge, 8) == [edge]


def test_the_knobs_of_each_family_fall_in_multiples():
    named = {knob.name: knob.values for knob in list_free_widths(_FULL, 8)}
    assert named["unit_widths.2"] == (64, 48, 32, 16, 8)
    assert named["down_widths.0"] == (16, 8)
    assert named["up_widths.0"] == (32, 24, 16, 8)
    edge = {knob.name: knob.values for knob in list_free_widths(MIRNetEdgeConfig(), 8)}
    assert edge["channels.1"] == (48, 32, 24, 8)


def test_a_width_inside_stays_narrow_when_the_trunk_gets_narrower():
    config = MIRNetConfig(channels=16, groups=1, blocks=1, unit_widths=(4, 32, 64))
    assert list_base_configs(config, 8)[1].unit_widths == (4, 16, 32)


@pytest.mark.parametrize("target", [99.0, 70.0, 30.0])
def test_the_choice_is_at_the_target_and_removes_no_more_than_it_must(network, target):
    scores = magnitude_importance(network)
    choice = choose_widths(network, scores, _bases(), target)
    assert choice.predicted_ms <= target
    assert choice.removed == pytest.approx(
        sum_removed_importance(network, choice.config, scores), rel=1e-4
    )
    slower = choose_widths(network, scores, _bases(), target + 1.0)
    assert slower.removed <= choice.removed


def test_channels_without_importance_are_removed_first(network):
    scores = {name: torch.ones_like(row) for name, row in magnitude_importance(network).items()}
    for name, row in scores.items():
        if name.endswith("unit1.inner"):
            row[:8] = 0.0
    choice = choose_widths(network, scores, _bases(), 97.0)
    assert choice.config == replace_widths(_FULL, {_knob("unit_widths.1"): 24})
    assert choice.removed == 0.0


def _knob(name):
    return next(knob for knob in list_free_widths(_FULL, 8) if knob.name == name)


def test_a_target_below_the_narrowest_network_is_refused(network):
    with pytest.raises(OptionError, match=r"target is 1\.00 ms; the narrowest network .* takes"):
        choose_widths(network, magnitude_importance(network), _bases(), 1.0)
