"""The anchored form: the network itself at memory 0, tiles that equal the frame at memory 1."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.models.global_context import ContextAnchoredNetwork
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig

_NETWORKS = (
    "edge",
    "light",
    "enlarging",
    "light-enlarging",
    "one-stream",
    "mirnet",
    "mirnet-v2",
    "keras-mirnet",
)
_any_network = pytest.mark.parametrize("name", _NETWORKS)
_NONE, _ALL = torch.zeros(1), torch.ones(1)


@pytest.fixture
def anchored_of(network_of):
    return lambda name: ContextAnchoredNetwork(network_of(name)).eval()


def _frames(height=64, width=96, count=2):
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(count, 3, height, width, generator=generator)


@_any_network
def test_without_memory_it_is_the_network_whatever_is_given(name, network_of, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    given = 100 * torch.randn(2, anchored.context_length)
    restored, vectors = anchored(batch, given, _NONE)
    torch.testing.assert_close(restored, network_of(name)(batch), rtol=0, atol=1e-5)
    assert vectors.shape == (2, anchored.context_length)
    assert torch.equal(vectors, anchored(batch, torch.zeros_like(given), _NONE)[1])


@_any_network
def test_with_full_memory_the_given_vectors_are_used_to_the_last_bit(name, anchored_of):
    anchored = anchored_of(name)
    # far apart in size: measured + (given - measured) would lose the smaller one
    given = 10.0 ** torch.linspace(-8, 3, anchored.context_length).expand(2, -1)
    _, vectors = anchored(_frames(), given, _ALL)
    assert torch.equal(vectors, given)


@_any_network
def test_a_frame_with_its_own_vectors_is_itself(name, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    whole, own = anchored(batch, torch.zeros(2, anchored.context_length), _NONE)
    assert torch.equal(anchored(batch, own, _ALL)[0], whole)


@_any_network
def test_other_vectors_make_another_image(name, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    whole, own = anchored(batch, torch.zeros(2, anchored.context_length), _NONE)
    changed, _ = anchored(batch, own + 1.0, _ALL)
    assert (changed - whole).abs().max() > 1e-3


@_any_network
def test_the_first_vector_is_blended_by_the_memory(name, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    given = torch.randn(2, anchored.context_length)
    _, own = anchored(batch, given, _NONE)
    _, used = anchored(batch, given, torch.full((1,), 0.75))
    first = slice(0, anchored.layout[0].size)
    torch.testing.assert_close(used[:, first], 0.25 * own[:, first] + 0.75 * given[:, first])


@_any_network
def test_frames_of_a_batch_keep_their_own_vectors(name, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    nothing = torch.zeros(2, anchored.context_length)
    _, both = anchored(batch, nothing, _NONE)
    for place in range(2):
        one = slice(place, place + 1)
        torch.testing.assert_close(anchored(batch[one], nothing[one], _NONE)[1], both[one])


@_any_network
def test_the_rewritten_network_has_the_same_vectors(name, network_of, anchored_of):
    anchored, batch = anchored_of(name), _frames()
    rewritten = ContextAnchoredNetwork(to_inference_form(network_of(name)))
    nothing = torch.zeros(2, anchored.context_length)
    assert rewritten.layout == anchored.layout
    torch.testing.assert_close(
        rewritten(batch, nothing, _NONE)[1], anchored(batch, nothing, _NONE)[1], rtol=0, atol=1e-5
    )


@_any_network
def test_names_are_unique_and_the_given_network_is_left_as_it_is(name, network_of):
    network = network_of(name)
    before = str(network)
    anchored = ContextAnchoredNetwork(network)
    names = [vector.name for vector in anchored.layout]
    assert len(set(names)) == len(names)
    assert str(network) == before
    assert anchored.multiple == network.multiple


def test_a_module_that_runs_twice_has_a_vector_for_each_time():
    network = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1, streams=2, columns=2))
    names = [vector.name for vector in ContextAnchoredNetwork(network).layout]
    unit = "body.0.body.0.blocks.0.0.CA"
    assert {unit, f"{unit}#2"} <= set(names)


def test_the_exposure_is_anchored_as_a_whole(anchored_of):
    exposure, *others = anchored_of("edge").layout
    assert (exposure.name, exposure.size) == ("exposure", 18)
    assert exposure.thumbnail is not None
    assert all(one.thumbnail is None for one in others)


def _error_of_tiles(anchored, frame, overlap, *, given):
    """Return the largest error of two tiles, cut in the middle of their overlap."""
    width = frame.shape[-1]
    nothing = torch.zeros(1, anchored.context_length)
    whole, own = anchored(frame, nothing, _NONE)
    scale = whole.shape[-1] // width
    vectors, memory = (own, _ALL) if given else (nothing, _NONE)
    half, margin = width // 2, overlap // 2
    left, _ = anchored(frame[..., : half + margin], vectors, memory)
    right, _ = anchored(frame[..., half - margin :], vectors, memory)
    joined = torch.cat((left[..., : scale * half], right[..., scale * margin :]), -1)
    return float((joined - whole).abs().max())


@_any_network
def test_tiles_equal_the_frame_only_with_its_vectors(name, anchored_of):
    anchored = anchored_of(name)
    # darker on the left, so that the halves' own vectors differ
    frame = _frames(64, 320, 1) * torch.linspace(0.1, 1.0, 320)
    with torch.inference_mode():
        error = _error_of_tiles(anchored, frame, 192, given=True)
        assert error < 1e-5
        assert _error_of_tiles(anchored, frame, 192, given=False) > 1e-4 > 20 * error


@pytest.mark.parametrize(
    ("task", "overlap"),
    [
        ("low-light", 128),
        ("denoise", 128),
        ("super-resolution", 128),
        ("old-photo", 160),  # its damage branch sees 69 pixels each way
    ],
)
def test_tiles_of_shipped_weights_equal_the_frame(task, overlap):
    anchored = ContextAnchoredNetwork(checkpoints.load(f"shipped:{task}").model).eval()
    frame = _frames(64, 320, 1) * torch.linspace(0.02, 0.6, 320)
    with torch.inference_mode():
        assert _error_of_tiles(anchored, frame, overlap, given=True) < 1e-4
        assert _error_of_tiles(anchored, frame, overlap, given=False) > 5e-4
