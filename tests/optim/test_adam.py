import copy

import pytest
import torch

from srgan_dist.optim import adam as optimizer_module
from srgan_dist.optim.adam import adam, write_next_weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [64, 2**18])
def test_the_next_weights_are_those_that_the_next_step_gives(monkeypatch, dtype, piece):
    monkeypatch.setitem(optimizer_module.PIECE, "cpu", piece)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 1, 3)).to(
        torch.float64 if dtype == torch.float64 else torch.float32, memory_format=torch.channels_last
    )
    optimizer = adam(network.parameters(), 1e-2)
    for _ in range(4):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter) ** 3
        weights, moments = copy.deepcopy((network.state_dict(), optimizer.state_dict()["state"]))
        targets = [torch.empty_like(parameter, dtype=dtype) for parameter in network.parameters()]
        write_next_weights(optimizer, targets)
        assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())
        for key, entry in moments.items():
            for name, value in entry.items():
                assert torch.equal(optimizer.state_dict()["state"][key][name], value)
        optimizer.step()
        for parameter, target in zip(network.parameters(), targets, strict=True):
            assert torch.equal(target, parameter.detach().to(dtype))
