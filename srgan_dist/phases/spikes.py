"""What is far above the usual: losses and norms of gradients against their running means.

The idea is that of the optimisers that skip steps in the training of language models (OLMo-core's SkipStepOptimizer),
with a factor in place of standard deviations: the losses of small batches of rock are far from normally distributed.
"""

import torch
from torch import nn

SETTLED = 100  # sound updates before anything is far above the usual; from then on the means are of about the last so many


class Spikes(nn.Module):
    """Running means of the loss and of the norm of the gradient of one network, over sound updates and all ranks.

    factor: what is larger than so many times its mean is a spike. The means are buffers, for checkpoints.
    """

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        for name in ("loss", "norm", "count"):
            self.register_buffer(name, torch.zeros(()))

    def is_spike(self, name, value):
        """Tell, by a 0-d tensor, whether a value of "loss" or "norm" is one."""
        return (self.count >= SETTLED) & (value.detach() > self.factor * getattr(self, name))

    def learn(self, loss, norm, unsound):
        """Take in an update, unless it is unsound (0-d tensor, 1)."""
        for mean, value in ((self.loss, loss), (self.norm, norm)):
            mean.copy_(torch.where(unsound.bool(), mean, mean + (value - mean) / (self.count + 1).clamp(max=SETTLED)))
        self.count += 1 - unsound
