"""MIRNet against the authors' definition, and what golden outputs cannot see."""

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

from mirnet_edge.checkpoints.families import mirnet_config_from_tensors
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models.blocks import GlobalPool
from mirnet_edge.models.macs import count_parameters
from mirnet_edge.models.mirnet import BlurredHalving, MIRNet, MIRNetConfig

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
TINY = MIRNetConfig(channels=8, groups=1, blocks=1)


def with_golden_weights(model: nn.Module) -> nn.Module:
    """Fill a model by the rule that the golden figures were made with."""
    filled = set()
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key.endswith(".filt") or id(tensor) in filled:
            continue
        filled.add(id(tensor))
        random = np.random.RandomState(zlib.crc32(key.encode()))
        values = random.standard_normal(tuple(tensor.shape)).astype(np.float32)
        fan_in = np.prod(tensor.shape[1:]) if tensor.ndim == 4 else 400.0
        values *= np.float32(1.0 / np.sqrt(fan_in))
        tensor.data.copy_(torch.from_numpy(values) if tensor.numel() > 1 else torch.tensor([0.25]))
    return model.eval()


def layout(model: nn.Module) -> list[list[object]]:
    """List the state dict: [key, shape], and the first key that shares the tensor if one does."""
    first: dict[int, str] = {}
    rows: list[list[object]] = []
    for key, tensor in model.state_dict(keep_vars=True).items():
        sharing = first.setdefault(id(tensor), key)
        rows.append([key, list(tensor.shape), *([sharing] if sharing != key else [])])
    return rows


def golden_input() -> Tensor:
    random = np.random.RandomState(20200303)
    return torch.from_numpy(random.rand(1, 3, 32, 48).astype(np.float32))


@torch.no_grad()
def restored(model: nn.Module, batch: Tensor) -> Tensor:
    output = model.eval()(batch)
    assert isinstance(output, Tensor)
    return output


@dataclass(frozen=True)
class Golden:
    """Figures of the authors' definition; golden_NAME.json in the reference folder."""

    name: str
    config: MIRNetConfig
    mean: float
    std: float
    parameters: int


# Made once by the authors' definition on CPU, float32.
GOLDENS = [
    Golden(
        name="mirnet_v1",
        config=TINY,
        mean=0.6122846603393555,
        std=0.9164362549781799,
        parameters=83_888,
    ),
    Golden(
        name="mirnet_v1_two_groups",
        config=MIRNetConfig(channels=16, groups=2, blocks=2),
        mean=-0.31006962060928345,
        std=1.5072288513183594,
        parameters=1_326_365,
    ),
]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_output_is_that_of_the_authors_definition(golden: Golden) -> None:
    model = with_golden_weights(MIRNet(golden.config))
    output = restored(model, golden_input()).numpy()
    assert output.mean() == pytest.approx(golden.mean, abs=1e-5)
    assert output.std() == pytest.approx(golden.std, abs=1e-5)
    assert count_parameters(model) == golden.parameters


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_every_value_is_that_of_the_authors_definition(golden: Golden) -> None:
    path = REFERENCE / "golden_outputs.npz"
    if not path.is_file():
        pytest.skip("whole outputs lie in ../shared/reference, which is not here")
    output = restored(with_golden_weights(MIRNet(golden.config)), golden_input())
    np.testing.assert_allclose(output.numpy(), np.load(path)[golden.name], rtol=0, atol=1e-4)


def test_full_state_dict_is_that_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        rows = layout(MIRNet())
    assert len(rows) == 797
    # sha256 of mirnet_v1_state_dict.json's "keys" as JSON without spaces, 2026-11-23
    digest = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert digest == "648bba8e49afbec0d6f79a5c5b4dcdd9166b6457d4b7c02e7358731f8764698e"


def test_full_state_dict_key_by_key() -> None:
    path = REFERENCE / "mirnet_v1_state_dict.json"
    if not path.is_file():
        pytest.skip("the list of keys lies in ../shared/reference, which is not here")
    with torch.device("meta"):
        assert layout(MIRNet()) == json.loads(path.read_text())["keys"]


def test_one_dual_attention_unit_serves_every_column_of_its_stream() -> None:
    model: Any = MIRNet(MIRNetConfig(channels=8, groups=2, blocks=2, columns=3))
    blocks = [block for group in model.body for block in group.body[:-1]]
    for block in blocks:
        for row in block.blocks:
            assert len(row) == 3
            assert row[0] is row[1] is row[2]
    units = {id(row[0]) for block in blocks for row in block.blocks}
    assert len(units) == 2 * 2 * 3, "units of other streams, blocks and groups are their own"


def test_one_slope_serves_all_dual_attention_units_and_no_other_module() -> None:
    model: Any = MIRNet(MIRNetConfig(channels=8, groups=2, blocks=2))
    slopes = [module for module in model.modules() if isinstance(module, nn.PReLU)]
    shared = model.body[0].body[0].blocks[0][0].body[1]
    for group in model.body:
        for block in group.body[:-1]:
            assert all(row[0].body[1] is shared for row in block.blocks)
            assert all(fusion.conv_du[1] is not shared for fusion in block.selective_kernel)
    # per block: 3 fusions; 4 steps down, 4 up and 3 last ups with 2 slopes each
    assert len(slopes) == 1 + 4 * (3 + (4 + 4 + 3) * 2)


def test_an_untouched_residual_returns_the_image_at_every_multiple() -> None:
    model = MIRNet(TINY)
    nn.init.zeros_(model.conv_out.weight)
    for height, width in ((4, 4), (4, 8), (12, 20), (36, 52)):
        batch = torch.rand(2, 3, height, width)
        assert torch.equal(restored(model, batch), batch)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = with_golden_weights(MIRNet(TINY))
    batch = torch.rand(2, 3, 20, 28)
    alone = torch.cat([restored(model, batch[:1]), restored(model, batch[1:])])
    torch.testing.assert_close(restored(model, batch), alone, rtol=0, atol=1e-5)


@dataclass(frozen=True)
class Shape:
    id: str
    config: MIRNetConfig
    multiple: int


SHAPES = [
    Shape("one-stream", MIRNetConfig(channels=8, groups=1, blocks=1, streams=1), 1),
    Shape("two-streams", MIRNetConfig(channels=8, groups=1, blocks=1, streams=2), 2),
    Shape("paper", TINY, 4),
    Shape("four-streams", MIRNetConfig(channels=8, groups=1, blocks=1, streams=4), 8),
    Shape("three-columns", MIRNetConfig(channels=9, groups=2, blocks=1, columns=3), 4),
    Shape("one-column", MIRNetConfig(channels=8, groups=1, blocks=2, columns=1), 4),
    Shape("gray", MIRNetConfig(in_channels=1, out_channels=1, channels=8, groups=1, blocks=1), 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
def test_runs_at_its_smallest_size_and_is_told_from_its_tensors(shape: Shape) -> None:
    model = MIRNet(shape.config)
    assert model.multiple == shape.multiple
    batch = torch.rand(1, shape.config.in_channels, shape.multiple, 3 * shape.multiple)
    output = restored(model, batch)
    assert output.shape == batch.shape
    assert not torch.equal(output, batch)
    assert mirnet_config_from_tensors(model.state_dict()) == shape.config


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (6, 4), (3, 8), (33, 48)])
def test_sizes_that_are_no_multiple_are_refused(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(ImageError, match=rf"{width}x{height}; MIRNet takes multiples of 4"):
        MIRNet(TINY)(torch.rand(1, 3, height, width))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 8, 8, 3)])
def test_batches_of_another_layout_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"MIRNet takes \(N, 3, H, W\)"):
        MIRNet(TINY)(torch.rand(shape))


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": 7},
        {"streams": 0},
        {"columns": 0},
        {"groups": 0},
        {"blocks": 0},
        {"factor": 3},
        {"in_channels": 6},
    ],
    ids=str,
)
def test_shapes_that_make_no_network_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        MIRNetConfig(**fields)


def test_blur_keeps_a_flat_image_flat_up_to_its_border() -> None:
    flat = torch.full((1, 5, 6, 8), 0.3)
    torch.testing.assert_close(BlurredHalving(5)(flat), torch.full((1, 5, 3, 4), 0.3))


def test_blur_removes_the_pattern_that_would_alias() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 2, 8, 8)
    torch.testing.assert_close(BlurredHalving(2)(stripes), torch.full((1, 2, 4, 4), 0.5))


def test_nothing_but_the_pools_carries_a_change_across_the_frame() -> None:
    """With the global context vectors held, far pixels do not matter: anchored tiles are exact."""
    model = with_golden_weights(MIRNet(TINY))
    batch = torch.rand(1, 3, 8, 512, generator=torch.Generator().manual_seed(1))
    changed = batch.clone()
    changed[..., -64:] = 0.0
    free = restored(model, changed)[..., :64]
    expected = restored(with_held_pools(model, batch), batch)[..., :64]
    held = restored(model, changed)[..., :64]
    torch.testing.assert_close(held, expected, rtol=0, atol=1e-6)
    assert (free - expected).abs().max() > 1e-3


def with_held_pools(model: nn.Module, batch: Tensor) -> nn.Module:
    """Make each pool answer, call by call, what it answers for BATCH."""
    pools = [module for module in model.modules() if isinstance(module, GlobalPool)]
    vectors: dict[int, list[Tensor]] = {id(pool): [] for pool in pools}

    def remember(pool: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        vectors[id(pool)].append(output)

    def answer(pool: nn.Module, _inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        vectors[id(pool)].append(vectors[id(pool)].pop(0))
        return vectors[id(pool)][-1]

    handles = [pool.register_forward_hook(remember) for pool in pools]
    restored(model, batch)
    for handle in handles:
        handle.remove()
    for pool in pools:
        pool.register_forward_hook(answer)
    return model
