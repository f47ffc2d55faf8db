"""Muon against PyTorch's own, which takes matrices alone and computes in bfloat16."""

import copy

import pytest
import torch
from accelerate import Accelerator
from tiny_phases import pretrain, snapshot

from srgan_dist.optim.muon import Muon, MuonConfig, orthogonalised, split_for_muon


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (32, 8, 1, 1), (4, 8, 3, 3, 3)])
def test_steps_are_those_of_torch(shape):
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(shape))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    start = kernel.detach().clone()
    ours, theirs = Muon([kernel], 0.02), torch.optim.Muon([matrix], 0.02, weight_decay=0)
    for _ in range(3):
        kernel.grad = torch.randn(shape)
        matrix.grad = kernel.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    moved = (matrix.detach() - start.flatten(1)).norm()
    assert (kernel.detach().flatten(1) - matrix).norm() < 0.02 * moved  # bfloat16 there


@pytest.mark.parametrize("rows, columns", [(6, 20), (20, 6), (7, 7)])
def test_directions_stay_and_their_sizes_become_one(rows, columns):
    torch.manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64), full_matrices=False)
    sizes = torch.logspace(0, -1, min(rows, columns), dtype=torch.float64)
    found = orthogonalised((1e-7 * (u * sizes) @ v)[None])[0]
    sizes = u.mT @ found @ v.mT  # diagonal, where the directions are the same
    assert 0.6 < sizes.diagonal().min() and sizes.diagonal().max() < 1.3
    assert (sizes - sizes.diagonal().diag()).abs().max() < 1e-9


def test_a_gradient_of_zero_moves_nothing():
    kernel = torch.nn.Parameter(torch.ones(4, 4, 3, 3))
    optimizer = Muon([kernel], 1.0)
    kernel.grad = torch.zeros_like(kernel)
    optimizer.step()
    assert torch.equal(kernel, torch.ones_like(kernel))


def test_weights_between_first_and_last_layer_are_its():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.PReLU(4), torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 1, 3)
    )
    hidden, others = split_for_muon(network.parameters())
    assert len(hidden) == 1 and hidden[0] is network[2].weight and len(others) == 6


def test_a_skipped_update_changes_neither_weights_nor_momentum():
    phase = pretrain(Accelerator(cpu=True), optimizer=MuonConfig(name="muon"))
    lr, hr = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 32, 32)
    phase.update([(lr, hr)])
    weights = snapshot(phase.generator.network)
    states = copy.deepcopy({name: item.state_dict()["state"] for name, item in phase.optimizers.items()})
    metrics = phase.update([(lr, hr * torch.nan)])
    assert metrics["health/skipped"] == 1 and phase.optimizers.keys() == {"generator", "generator_muon"}
    for name, value in phase.generator.network.state_dict().items():
        assert torch.equal(value, weights[name])
    for name, state in states.items():
        for number, entry in state.items():
            for key, value in entry.items():
                assert torch.equal(phase.optimizers[name].state_dict()["state"][number][key], value)


def test_its_learning_rate_follows_the_schedule():
    phase = pretrain(
        Accelerator(cpu=True),
        learning_rate=1e-3,
        optimizer={"name": "muon", "learning_rate": 0.5},
        lr_schedule={"name": "cosine"},
    )
    phase.progress = 0.5
    phase.update([(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 32, 32))])
    assert phase.learning_rates() == pytest.approx({"lr/generator": 5e-4, "lr/generator_muon": 0.25})
