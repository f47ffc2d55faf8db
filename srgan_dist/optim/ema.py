"""An exponential moving average (EMA) of the generator's weights (Polyak & Juditsky 1992)."""

import copy

import torch


class EMA:
    """Follows a generator: after each update its weights are decay * average + (1 - decay) * generator.

    `network` is the average; its buffers are those of the generator once `synchronised`.
    """

    def __init__(self, generator, decay):
        self.generator, self.decay = generator, decay
        self.network = copy.deepcopy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, found_inf):
        """Take in the generator after an update; found_inf: 0-d tensor, 1 where the update was skipped, else
        0.
        """
        averages, weights = list(self.network.parameters()), list(self.generator.parameters())
        steps = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(steps, ((1 - self.decay) * (1 - found_inf)).to(weights[0].dtype))
        torch._foreach_add_(averages, steps)

    @torch.no_grad()
    def synchronised(self):
        """Return the average with the generator's buffers, to be evaluated or saved."""
        for average, buffer in zip(self.network.buffers(), self.generator.buffers(), strict=True):
            average.copy_(buffer)
        return self.network
