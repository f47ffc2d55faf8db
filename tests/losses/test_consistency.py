"""The consistency loss: averages over LR pixels."""

import pytest
import torch

from srgan_dist.losses import build_loss
from srgan_dist.losses.consistency import ConsistencyLossConfig


def loss(scale):
    return build_loss(ConsistencyLossConfig(name="consistency"), scale)


def test_averages_worked_by_hand():
    hr = torch.zeros(1, 1, 4, 4)
    sr = torch.tensor([[1.0, -1.0, 0.5, 0.5], [1.0, -1.0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, -2.0]])
    # Averages 0, 0.5, 0 and -0.5
    assert loss(2)(sr[None, None], hr).item() == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(2, 1, 48, 48), (1, 1, 12, 12, 12)])
def test_texture_costs_less_than_a_shift_of_its_size(shape):
    hr = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    texture = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert loss(4)(hr + texture, hr) < 0.03 and loss(4)(hr + 0.1, hr).item() == pytest.approx(0.1)
