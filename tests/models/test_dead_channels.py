"""Channels that never fire are found, and leaving them out changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mirnet_edge.models.dead_channels import (
    drop_silent_channels,
    recycle_dead_channels,
    silence_dead_channels,
)
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.reparameterization import widen_convolutions


def _separable(channels):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, channels, 1),
    )


def _full(channels):
    return nn.Conv2d(channels, channels, 3, padding=1)


def _sequence(conv, channels=24, dead=11):
    torch.manual_seed(0)
    sequence = nn.Sequential(conv(channels), nn.ReLU(), conv(channels))
    last = sequence[0][-1] if isinstance(sequence[0], nn.Sequential) else sequence[0]
    with torch.no_grad():
        last.bias[:dead] = -100.0  # no input in [0, 1] lifts them above 0
    return sequence.eval()


def _widths(sequence):
    return sum(one.out_channels for one in sequence.modules() if isinstance(one, nn.Conv2d))


@pytest.mark.parametrize("conv", [_full, _separable])
def test_what_never_fires_is_left_out_and_nothing_changes(conv):
    sequence, batch = _sequence(conv), torch.rand(2, 24, 16, 16)
    expected = sequence(batch)
    assert silence_dead_channels(sequence, [batch]) == {"": 8}  # of 11: the width stays 16
    before = _widths(sequence)
    with torch.no_grad():
        assert torch.allclose(sequence(batch), expected, atol=1e-6)
        dropped = drop_silent_channels(sequence)
        assert torch.allclose(dropped(batch), expected, atol=1e-6)
    assert before - _widths(dropped) == (8 if conv is _full else 16)


@pytest.mark.parametrize("conv", [_full, _separable])
def test_a_layer_that_is_all_dead_keeps_a_group(conv):
    sequence, batch = _sequence(conv, dead=24), torch.rand(1, 24, 16, 16)
    expected = sequence(batch)
    assert silence_dead_channels(sequence, [batch]) == {"": 16}
    with torch.no_grad():
        assert torch.allclose(drop_silent_channels(sequence)(batch), expected, atol=1e-6)
    assert sequence[0][-1].out_channels == 8 if conv is _separable else True


def _contributions(sequence, batch):
    """Return how much the sequence changes where a channel is left out, on average."""
    fired = sequence[1](sequence[0](batch)).mean((0, 2, 3))
    reader = sequence[2]
    if isinstance(reader, nn.Sequential):
        weights = reader[0].weight.abs().sum((1, 2, 3)) * reader[1].weight.abs().sum((0, 2, 3))
    else:
        weights = reader.weight.abs().sum((0, 2, 3))
    return fired * weights


@pytest.mark.parametrize("conv", [_full, _separable])
def test_a_fraction_silences_the_channels_that_contribute_least(conv):
    sequence, batch = _sequence(conv, dead=2), torch.rand(2, 24, 16, 16)
    with torch.no_grad():
        # not dead, and hardly read
        weak = sequence[2][0].weight[5:15] if conv is _separable else sequence[2].weight[:, 5:15]
        weak *= 1e-4
        contribution = _contributions(sequence, batch)
        assert silence_dead_channels(sequence, [batch]) == {}
        assert silence_dead_channels(sequence, [batch], fraction=0.001) == {"": 8}
        left_out = (contribution > 0.0) & (_contributions(sequence, batch) == 0.0)
    assert not left_out[15:].any()
    assert 0 < int(left_out[5:15].sum()) == 8 - int((contribution == 0.0).sum())


def test_a_channel_that_fires_on_one_image_stays():
    sequence = _sequence(_full, dead=8)
    with torch.no_grad():
        sequence[0].bias[:8] = 0.0
        sequence[0].weight[:8] = 1.0
    dark, bright = torch.zeros(1, 24, 8, 8), torch.ones(1, 24, 8, 8)
    assert silence_dead_channels(sequence, [dark, bright]) == {}
    assert silence_dead_channels(sequence, [dark])[""] >= 8


def test_the_inference_form_leaves_out_what_is_zero():
    torch.manual_seed(0)
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 24, 16), exposure_channels=4, light=True))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        for stream in ("top", "middle", "bottom"):
            body = getattr(network.blocks[0], stream).body
            last = body[0][-1] if stream == "top" else body[0]
            last.weight[:8] = 0.0
            last.bias[:8] = -1.0
    form, batch = to_inference_form(network.eval()), torch.rand(1, 3, 64, 96)
    assert form.blocks[0].top.body[0][-1].out_channels == 8
    assert form.blocks[0].middle.body[0].out_channels == 16
    assert form.blocks[0].bottom.body[2].in_channels == 8
    with torch.no_grad():
        assert torch.allclose(form(batch), network(batch), atol=1e-5)
    assert network.blocks[0].middle.body[0].out_channels == 24


def _recycled(sequence, batch, optimizer=None, **options):
    optimizer = optimizer or torch.optim.AdamW(sequence.parameters())
    generator = torch.Generator().manual_seed(0)
    return recycle_dead_channels(sequence, [(batch,)], optimizer, generator=generator, **options)


def _fired(sequence, batch):
    with torch.no_grad():
        return sequence[1](sequence[0](batch)).amax((0, 2, 3)) > 0.0


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("conv", [_full, _separable])
def test_recycled_channels_fire_and_nothing_changes_until_they_learn(conv, widened):
    sequence, batch = _sequence(conv).train(), torch.rand(2, 24, 16, 16) - 0.5
    if widened:
        widen_convolutions(sequence, 1.0)
    expected = sequence(batch)
    dead = ~_fired(sequence, batch)
    assert dead[:11].all()
    assert _recycled(sequence, batch) == int(dead.sum())
    assert int(_fired(sequence, batch).sum()) >= 22
    assert torch.allclose(sequence(batch), expected, atol=1e-5)

    optimizer = torch.optim.SGD(sequence.parameters(), lr=1.0)
    sequence(batch).sum().backward()
    optimizer.step()
    assert not torch.allclose(sequence(batch), expected, atol=1e-2)


def test_the_optimizer_starts_again_for_kernels_with_new_weights_alone():
    sequence, batch = _sequence(_full).train(), torch.rand(2, 24, 16, 16)
    living = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW([*sequence.parameters(), *living.parameters()])
    (sequence(batch).sum() + living(torch.ones(1, 4)).sum()).backward()
    optimizer.step()
    _recycled(sequence, batch, optimizer)
    kernel, other = optimizer.state[sequence[0].weight], optimizer.state[living.weight]
    assert float(kernel["step"]) == 0.0
    assert not kernel["exp_avg"].any()
    assert not kernel["exp_avg_sq"].any()
    assert float(other["step"]) == 1.0
    assert other["exp_avg"].any()


def test_a_layer_that_does_not_train_keeps_its_dead_channels():
    sequence, batch = _sequence(_full), torch.rand(2, 24, 16, 16) - 0.5
    dead = int((~_fired(sequence, batch)).sum())
    before = {name: one.clone() for name, one in sequence.state_dict().items()}
    optimizer = torch.optim.AdamW(sequence.parameters())
    sequence.requires_grad_(requires_grad=False)
    assert dead
    assert _recycled(sequence, batch, optimizer) == 0
    assert all(torch.equal(one, before[name]) for name, one in sequence.state_dict().items())
    sequence.requires_grad_()
    assert _recycled(sequence, batch, optimizer) == dead


def test_a_channel_that_fires_in_another_process_is_not_recycled():
    sequence, batch = _sequence(_full), torch.rand(1, 24, 16, 16)
    before = sequence[0].weight.clone()
    assert _recycled(sequence, batch, reduce=lambda largest: largest + 1.0) == 0
    assert torch.equal(sequence[0].weight, before)
