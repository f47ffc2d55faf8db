"""A generator whose weights are the exponential moving average of those that are trained (Polyak & Juditsky 1992)."""

import copy

import torch


class Average:
    """Follows a generator: after each update its weights are decay * average + (1 - decay) * generator.

    `network` is the average; its buffers are those of the generator.
    """

    def __init__(self, generator, decay):
        self.generator, self.decay = generator, decay
        self.network = copy.deepcopy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, unsound):
        """Take in the generator after an update; unsound: 0-d tensor, 1 where the update was skipped, else 0."""
        share = (1 - self.decay) * (1 - unsound)
        for average, weight in zip(self.network.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight, share.to(average.dtype))

    def settled(self):
        """Return the average with the generator's buffers, as it can be looked at or saved."""
        for average, buffer in zip(self.network.buffers(), self.generator.buffers(), strict=True):
            average.copy_(buffer)
        return self.network
