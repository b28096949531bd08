"""From a target to a network that was measured to reach it, with times that are made up."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.checkpoints.families import plain_config
from mirnet_edge.errors import OptionError
from mirnet_edge.models.macs import count_parameters
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning.cutting import (
    PrunableNetwork,
    choose_depth,
    drop_blocks,
    list_blocks,
    prune_to_target,
)
from mirnet_edge.pruning.importance import magnitude_importance
from mirnet_edge.pruning.record import LatencyGoal
from mirnet_edge.pruning.widths import (
    BaseTiming,
    choose_fastest_widths,
    list_base_configs,
    list_free_widths,
)

_CONFIG = MIRNetConfig(channels=16, groups=1, blocks=2, streams=2, columns=1)
_UNPRUNED_MS = 100.0


def _bases(config, whole=_UNPRUNED_MS):
    """Each channel that goes saves a millisecond; a trunk of half the width takes half as long."""
    return [
        BaseTiming(
            each,
            ms,
            {
                (knob, value): float(knob.values[0] - value)
                for knob in list_free_widths(each, 8)
                for value in knob.values[1:]
            },
        )
        for each, ms in zip(list_base_configs(config, 8), (whole, whole / 2), strict=True)
    ]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MIRNet(_CONFIG).eval()


@pytest.fixture(scope="module")
def source(network):
    return PrunableNetwork(
        network, list_blocks(network), magnitude_importance(network), _bases(_CONFIG)
    )


def test_a_correct_prediction_needs_one_attempt(source):
    pruned = prune_to_target(
        lambda target: source, LatencyGoal(speedup=1.25), _UNPRUNED_MS, lambda network: (50.0, 40.0)
    )
    assert (len(pruned.attempts), pruned.best, pruned.reached) == (1, 0, True)
    # the first attempt takes the table to err by so much on the dear side
    assert pruned.attempts[0].predicted_ms <= 1.05 * _UNPRUNED_MS / 1.25
    assert pruned.attempts[0].speedup == 1.25


def test_a_network_slower_than_predicted_is_pruned_again_by_the_measured_ratio(source):
    answers = iter([(50.0, 45.0), (50.0, 39.0)])
    pruned = prune_to_target(
        lambda target: source,
        LatencyGoal(speedup=1.25),
        _UNPRUNED_MS,
        lambda network: next(answers),
    )
    first, second = pruned.attempts
    assert second.predicted_ms <= first.predicted_ms * 40.0 / 45.0
    assert second.config != first.config
    assert (pruned.best, pruned.reached) == (1, True)
    assert count_parameters(pruned.network) < count_parameters(source.network)


def test_what_is_out_of_reach_ends_after_three_attempts_with_the_fastest(source):
    answers = iter([(50.0, 48.0), (50.0, 44.0), (50.0, 46.0)])
    pruned = prune_to_target(
        lambda target: source,
        LatencyGoal(speedup=1.15),
        _UNPRUNED_MS,
        lambda network: next(answers),
    )
    assert (len(pruned.attempts), pruned.best, pruned.reached) == (3, 1, False)
    assert pruned.attempts[1].config == plain_config(pruned.network.config)


def test_the_narrowest_that_is_still_too_slow_is_kept_and_told(source):
    pruned = prune_to_target(
        lambda target: source, LatencyGoal(speedup=1.5), _UNPRUNED_MS, lambda network: (50.0, 500.0)
    )
    assert not pruned.reached
    # a tenth of what was promised: there is no such width, and then none that is narrower still
    assert len(pruned.attempts) == 2
    fastest = choose_fastest_widths(source.network, source.scores, source.bases)
    assert pruned.attempts[1].config == plain_config(fastest.config)


def test_a_target_in_milliseconds_is_held_against_milliseconds(source):
    reached = prune_to_target(
        lambda target: source,
        LatencyGoal(latency_ms=80.0),
        _UNPRUNED_MS,
        lambda network: (400.0, 79.0),
    )
    assert reached.reached
    assert reached.attempts[0].predicted_ms <= 84.0


def test_a_target_close_to_the_unpruned_latency_still_prunes(source):
    pruned = prune_to_target(
        lambda target: source, LatencyGoal(speedup=1.02), _UNPRUNED_MS, lambda network: (50.0, 49.0)
    )
    assert pruned.attempts[0].predicted_ms < _UNPRUNED_MS
    assert count_parameters(pruned.network) < count_parameters(source.network)


def test_a_round_before_the_last_goes_a_part_of_the_way():
    assert LatencyGoal(speedup=4.0, share=0.5).ms(100.0) == pytest.approx(50.0)
    assert LatencyGoal(latency_ms=25.0, share=0.5).ms(100.0) == pytest.approx(50.0)
    assert LatencyGoal(speedup=4.0).ms(100.0) == pytest.approx(25.0)


def _losses(network):
    """Return a loss that is the distance to what the network makes."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(2, 3, 16, 16, generator=generator)
    with torch.no_grad():
        wanted = network(batch)
    return [lambda one: (one(batch) - wanted).abs().mean()]


@pytest.fixture(scope="module")
def idle():
    """A network whose second block does nothing."""
    torch.manual_seed(1)
    network = MIRNet(_CONFIG).eval()
    with torch.no_grad():
        network.body[0].body[1].conv_out.weight.zero_()
    return network


def test_the_block_that_does_nothing_goes_first(idle):
    depths = list(drop_blocks(idle, _losses(idle)))
    assert [kept for kept, _ in depths] == [[[0, 1]], [[0]]]
    assert depths[1][1].config.blocks == 1


def test_groups_go_too_the_least_useful_first():
    torch.manual_seed(1)
    config = MIRNetConfig(channels=8, groups=2, blocks=1, streams=1, columns=1)
    network = MIRNet(config).eval()
    with torch.no_grad():
        network.body[0].body[1].weight.zero_()
        network.body[0].body[0].conv_out.weight.zero_()
    assert [kept for kept, _ in drop_blocks(network, _losses(network))] == [[[0], [0]], [[], [0]]]


def _make_prunable(kept, network):
    whole = _UNPRUNED_MS * network.config.blocks / 2
    return PrunableNetwork(
        network, kept, magnitude_importance(network), _bases(network.config, whole)
    )


def test_a_useless_block_goes_rather_than_channels(idle):
    losses = _losses(idle)
    source, candidates = choose_depth(
        drop_blocks(idle, losses), losses, lambda kept: 50.0, _make_prunable
    )
    assert source.kept == [[0]]
    assert [one.kept for one in candidates] == [[[0, 1]], [[0]]]
    assert candidates[1].cut_loss < candidates[0].cut_loss


def test_a_depth_is_asked_again_when_a_first_attempt_was_too_slow(idle):
    losses = _losses(idle)
    depths = list(drop_blocks(idle, losses))
    asked = []

    def find(target):
        asked.append({len(kept[0]): target(kept) for kept, _ in depths})
        # both blocks until the table is asked for less than a trunk of both can give
        return _make_prunable(*depths[0 if target(depths[0][0]) > 60.0 else 1])

    answers = iter([(50.0, 80.0), (50.0, 20.0)])
    pruned = prune_to_target(
        find, LatencyGoal(speedup=1.25), _UNPRUNED_MS, lambda network: next(answers)
    )
    first, second = asked
    assert first[2] == first[1]
    assert second[2] < 0.6 * first[2]  # of the depth that was too slow as much less is asked
    assert second[1] == first[1]  # of the other, which nobody timed, the same
    assert (pruned.kept, pruned.best, pruned.reached) == ([[0]], 1, True)


def test_an_important_block_stays_and_its_depth_is_not_pruned(network):
    with torch.no_grad():
        strong = MIRNet(_CONFIG).eval()
        strong.load_state_dict(network.state_dict())
        for block in strong.body[0].body[:2]:
            block.conv_out.weight *= 30.0
            for key, weight in block.named_parameters():
                if "blocks.1" in key:  # the lower stream has hardly any importance
                    weight *= 1e-6
    losses = _losses(strong)
    source, candidates = choose_depth(
        drop_blocks(strong, losses), losses, lambda kept: 95.0, _make_prunable
    )
    assert source.kept == [[0, 1]]
    assert candidates[1].cut_loss is None


def test_no_depth_that_is_fast_enough_is_refused(network):
    def fixed(kept, short):
        return PrunableNetwork(
            short, kept, magnitude_importance(short), [BaseTiming(short.config, _UNPRUNED_MS, {})]
        )

    losses = _losses(network)
    with pytest.raises(OptionError, match=r"target is 50\.00 ms; the narrowest network .* 100\.00"):
        choose_depth(drop_blocks(network, losses), losses, lambda kept: 50.0, fixed)
