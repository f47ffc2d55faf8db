"""Batch normalisation with the statistics of all ranks (Ioffe & Szegedy 2015, equations 1 to 4, over the global batch)."""

import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce


def synchronised(network, device):
    """Return a network whose batch normalisations take their statistics over all ranks; names of weights stay.

    PyTorch's own module does so on a GPU and refuses a CPU, for which there is one here.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
    return network


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all ranks, which have one shape: x [B, C, H, W] -> the same.

    The sums travel over ranks forward and their gradients backward.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = all_reduce(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean, variance):
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
