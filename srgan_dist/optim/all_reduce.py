"""Gradients that are averaged over ranks, once per update and network.

Every rank starts the backward of its losses from 1/parts instead of 1, where parts counts the micro-batches
of all ranks: their gradients then only have to be summed. They are summed here, after the last micro-batch,
and nowhere else: the networks are not wrapped in DistributedDataParallel, whose hooks would start an
all-reduce per backward and do not let it run on beyond the backward. Here the sum of the discriminator's
gradients starts when they are complete and is waited for after the backward of the content losses, the
longest part of an update, which hides it. In float64 both ways train the same weights to 1e-12.
"""

import torch
import torch.distributed

# From this size on a gradient is summed in place, without a copy: the discriminator's first dense layer
LARGE_GRADIENT_BYTES = 16 * 2**20


class GradientAllReduce:
    """Sums the gradients of a network over ranks, in place; `start`, then `wait`."""

    def __init__(self, network, world_size):
        self.parameters, self.world_size = list(network.parameters()), world_size
        self.pending = []

    def start(self, number=None):
        """Begin to sum; until `wait` nothing may touch the gradients. number: a 0-d tensor, summed too."""
        self.number = number
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        large = [g for g in gradients if g.nbytes >= LARGE_GRADIENT_BYTES and g.is_contiguous()]
        self.small = [g for g in gradients if not any(g is other for other in large)]
        flat = [g.as_strided((g.numel(),), (1,)) for g in self.small]  # in the order of its memory
        self.flat = torch.cat(flat if number is None else [*flat, number.view(1)])
        self.pending = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in (*large, self.flat)]

    def wait(self):
        """Wait until the sums are in .grad; returns the sum of the number, None where there is none."""
        number = self.number
        if self.pending:
            for work in self.pending:
                work.wait()
            parts = self.flat.split([*(g.numel() for g in self.small), *([] if number is None else [1])])
            sums = [part.as_strided(g.shape, g.stride()) for part, g in zip(parts, self.small, strict=False)]
            torch._foreach_copy_(self.small, sums)
            number = None if number is None else parts[-1].view(()).clone()
        self.pending, self.small, self.flat, self.number = [], [], None, None
        return number
