"""Spikes: losses and gradient norms far above their running means.

The idea is that of the optimisers that skip steps in the training of language models (OLMo-core's
SkipStepOptimizer), with a factor in place of standard deviations: the losses of small batches of rock are far
from normally distributed.

A spike raises its mean by half, so that a loss that stays high, as a discriminator's may that had almost won,
is normal again after a few updates: at a thousand times its mean, with the factor 20, after ten.
"""

import torch
from torch import nn

RISE = 1.5  # factor of a mean per spike
SETTLED = 100  # updates before the first spike; from then on the means are of about the last 100


class SpikeDetector(nn.Module):
    """Running means of the loss and of the gradient norm of one network, over all ranks.

    factor: a value above this multiple of its mean is a spike. The means are buffers, for checkpoints.
    """

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("counts", torch.zeros(2))

    def update(self, loss, norm, learn=True):
        """Return, as a 0-d tensor, whether one of two 0-d tensors is a spike; finite ones move the means.

        learn: 0-d tensor, False in an update that is skipped anyway.
        """
        values = torch.stack([loss, norm]).to(self.means)
        finite = values.isfinite() & learn
        spikes = finite & (self.counts >= SETTLED) & (self.means > 0) & (values > self.factor * self.means)
        moved = self.means + (values - self.means) / (self.counts + 1).clamp(max=SETTLED)
        self.means.copy_(torch.where(spikes, RISE * self.means, torch.where(finite, moved, self.means)))
        self.counts += finite
        return spikes.any()
