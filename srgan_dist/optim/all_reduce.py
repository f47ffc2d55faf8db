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
    """Sums what the parameters of a network have as .grad over ranks, in place; `start`, then `wait`."""

    def __init__(self, network, world_size):
        self.parameters, self.world_size = list(network.parameters()), world_size
        self.pending = []

    def start(self, number=None):
        """Begin to sum; until `wait` nothing may touch these gradients. number: a 0-d tensor that is summed
        along.
        """
        self.number = number
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        large = [
            gradient
            for gradient in gradients
            if gradient.nbytes >= LARGE_GRADIENT_BYTES and gradient.is_contiguous()
        ]
        self.small = [gradient for gradient in gradients if not any(gradient is other for other in large)]
        flat = [
            gradient.as_strided((gradient.numel(),), (1,)) for gradient in self.small
        ]  # as it lies in memory
        self.flat = torch.cat(flat if number is None else [*flat, number.view(1)])
        self.pending = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in (*large, self.flat)]

    def wait(self):
        """Let the sums arrive in .grad; returns that of the number, None where there is none."""
        number = self.number
        if self.pending:
            for work in self.pending:
                work.wait()
            parts = self.flat.split(
                [*(gradient.numel() for gradient in self.small), *([] if number is None else [1])]
            )
            torch._foreach_copy_(
                self.small,
                [
                    part.as_strided(gradient.shape, gradient.stride())
                    for part, gradient in zip(parts, self.small, strict=False)
                ],
            )
            number = None if number is None else parts[-1].view(()).clone()
        self.pending, self.small, self.flat, self.number = [], [], None, None
        return number
