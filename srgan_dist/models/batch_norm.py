"""Batch normalisation (Ioffe & Szegedy 2015, equations 1 to 4), of each rank by itself or with the statistics of all ranks."""

import torch
from torch import nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d without its own counting, which is a launch per layer: see `count_batch`."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


def count_batch(network):
    """Add a batch to `num_batches_tracked` of all batch normalisations of a network, in one launch."""
    torch._foreach_add_(
        [module.num_batches_tracked for module in network.modules() if isinstance(module, BatchNorm2d)], 1
    )


def synchronise(network):
    """Let the batch normalisations of a network take their statistics over all ranks; names of weights stay."""
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.__class__ = SynchronisedBatchNorm2d


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; so is its gradient, for every rank's loss depends on every rank's term."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return SumOverRanks.apply(gradient)


class SynchronisedBatchNorm2d(BatchNorm2d):
    """Batch normalisation over the batches of all ranks, which have one shape: x [B, C, H, W] -> the same.

    The sums travel over ranks forward and their gradients backward. PyTorch's nn.SyncBatchNorm needs a GPU, and there the
    host waits in every layer for the counts of the ranks, which may differ; here they do not.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = SumOverRanks.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)
