from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.training.optimizers import is_matrix, make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(48, 432), (432, 48), (32, 32)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ found @ right.T
    # small singular values of square matrices need more steps than five
    kept = values > 0.02 * values[0]
    assert (inside.diagonal()[kept] > 0.6).all()
    assert (inside.diagonal() < 1.3).all()
    assert torch.allclose(inside, inside.diagonal().diag(), atol=1e-4)


def test_a_step_does_not_depend_on_the_scale_of_the_gradient():
    start = torch.randn(8, 6, 3, 3)
    moved = []
    for scale in (1e-6, 1.0, 1e6):
        kernel = nn.Parameter(start.clone())
        optimizer = make_optimizer("muon", [kernel], 1e-2, 0.0)
        kernel.grad = scale * torch.ones_like(start).cumsum(0).sin()
        optimizer.step()
        moved.append(kernel.detach() - start)
    assert torch.allclose(moved[0], moved[1], atol=1e-4)
    assert torch.allclose(moved[2], moved[1], atol=1e-4)


def test_steps_are_as_large_as_those_of_adamw():
    start, lengths = torch.randn(48, 32, 3, 3), {}
    for name in ("adamw", "muon"):
        kernel = nn.Parameter(start.clone())
        optimizer = make_optimizer(name, [kernel], 1e-2, 0.0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            kernel.grad = torch.randn(start.shape, generator=generator)
            before = kernel.detach().clone()
            optimizer.step()
        lengths[name] = (kernel.detach() - before).square().mean().sqrt().item() / 1e-2
    assert 0.1 < lengths["adamw"] < 0.4
    assert 0.1 < lengths["muon"] < 0.4


def test_muon_leaves_colors_depthwise_kernels_and_biases_to_adamw():
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 24, 16), exposure_channels=4, light=True))
    network.exposure.requires_grad_(requires_grad=False)
    optimizer = make_optimizer("muon", network.parameters(), 1e-3, 1e-4)
    trained = [one for one in network.parameters() if one.requires_grad]
    held = [one for group in optimizer.param_groups for one in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in trained}
    assert len(held) == len(trained)
    kernels = next(group for group in optimizer.param_groups if group.get("is_orthogonalized"))
    assert len(kernels["params"]) > 10
    for one in kernels["params"]:
        assert one.ndim == 4
        assert min(one.shape[:2]) > 3
    depthwise = [one for one in trained if one.ndim == 4 and one.shape[1] == 1]
    assert depthwise
    assert not any(is_matrix(one) for one in depthwise)


def test_what_muon_leaves_moves_as_by_adamw():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 1))
    second, batch = copy.deepcopy(first), torch.rand(2, 3, 12, 12)
    for name, network in (("adamw", first), ("muon", second)):
        optimizer = make_optimizer(name, network.parameters(), 1e-2, 0.1)
        network(batch).square().mean().backward()
        optimizer.step()
    same = [
        torch.equal(one, two)
        for one, two in zip(first.parameters(), second.parameters(), strict=True)
    ]
    assert same == [True, True, False, True, True, True]


def test_an_interrupted_run_goes_on_with_its_momentum():
    def step(kernel, optimizer, seed):
        kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    kernel = nn.Parameter(torch.randn(8, 6, 3, 3))
    optimizer = make_optimizer("muon", [kernel], 1e-2, 0.0)
    step(kernel, optimizer, 0)
    resumed = nn.Parameter(kernel.detach().clone())
    other = make_optimizer("muon", [resumed], 1e-2, 0.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(kernel, optimizer, 1)
    step(resumed, other, 1)
    assert torch.equal(kernel, resumed)
