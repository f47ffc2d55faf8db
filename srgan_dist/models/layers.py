"""Layers for images [B, C, H, W] and volumes [B, C, D, H, W]."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from srgan_dist.utils.errors import UserError


def conv3d(x, weight, bias, stride=1, padding=0):
    """Return the convolution of volumes; on a CPU, where no position has room for the kernel beside the
    padding, in float32 at least.

    There oneDNN's gradient of weights in bfloat16 reads memory that was never written (PyTorch 2.14: a kernel
    of 3 on a side of 2, of 4 on a side of 3).
    """
    paddings = padding if isinstance(padding, tuple) else (padding,) * 3
    sides = zip(x.shape[2:], paddings, weight.shape[2:], strict=True)
    if x.device.type != "cpu" or all(side + padding > kernel for side, padding, kernel in sides):
        return F.conv3d(x, weight, bias, stride, padding)
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(wide)
        return F.conv3d(x.to(wide), weight.to(wide), bias, stride, padding).to(x.dtype)


class Conv3d(nn.Conv3d):
    """Convolution of volumes, see `conv3d`."""

    def forward(self, x):
        return conv3d(x, self.weight, self.bias, self.stride, self.padding)


GRAINS = 8  # filters of noise
AMPLITUDE_WINDOW = 5  # LR pixels along each axis
POOL_AND_MODE = {4: (F.avg_pool2d, "bilinear"), 5: (F.avg_pool3d, "trilinear")}  # by the axes of a batch
NARROWEST, WIDEST = 0.4, 1.5  # pixels, the standard deviations of the first and the last of them at first
INITIAL_AMPLITUDE = 0.01  # of all but the narrowest; together some 5 grey levels of 255
CONV = {2: nn.Conv2d, 3: Conv3d}  # by the number of dimensions
CONVS = tuple(CONV.values())
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def initialize(network, std):
    """Draw the weights of convolutions and dense layers from a normal distribution, biases 0; std None:
    PyTorch's own.
    """
    for module in network.modules() if std is not None else ():
        if isinstance(module, (*CONVS, nn.Linear)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def checked_side(side_of, crop, setting):
    """Return side_of(crop), the side of the last feature map of a discriminator for an HR crop.

    Raises ValueError that names a setting and the smallest crop that works when nothing is left of it.
    """
    if (side := side_of(crop)) < 1:
        smallest = next(c for c in range(1, 1000) if side_of(c) >= 1)
        raise ValueError(
            f"an HR crop of {crop} pixels vanishes in the discriminator's strides ({setting});"
            f" use {smallest} or more"
        )
    return side


class Blocks(nn.Sequential):
    """Layers one after the other; with `recompute`, which a training may set, none keeps what lies within it
    for the backward pass, where it is computed again (Chen et al. 2016, "Training deep nets with sublinear
    memory cost"). The bits are the same.
    """

    recompute = False

    def forward(self, x):
        if not (self.recompute and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)  # none draws any
        return x


def recompute_blocks(network):
    """Make all `Blocks` of a network compute again what they need; raises UserError if it has none."""
    found = [module for module in network.modules() if isinstance(module, Blocks)]
    if not found:
        raise UserError(
            f"activation_checkpointing=true: generator.name={network.config.name} has no Blocks"
            " (srgan_dist/models/layers.py), whose layers could be computed again; set it to false"
        )
    for blocks in found:
        blocks.recompute = True


# Texture


class NoiseHead(nn.Module):
    """Texture that is added to an image: features [B, C, *HR shape], those of the LR grid [B, L, *shape]
    and noise [B, N, *HR shape] -> [B, 1, *HR shape]; of one image also several draws of the noise, [D, N,
    *HR shape] -> [D, 1, *HR shape], in the memory of one. It is detail, a function of the features alone
    (conv3 - PReLU - conv3), plus grain: filters of the noise (conv5), each times an amplitude, a mean of
    the LR features over 5 LR pixels along each axis. It adds nothing until `start`.

    What a scanner adds to HR is no function of LR: without a source of randomness on the HR grid a
    generator that has to please a discriminator fills flat grains with a pattern or with strokes
    (docs/texture.md). Grain is noise whose strength follows the rock, so it has no mean, and no strokes;
    an amplitude that may change from pixel to pixel draws some again.

    first_conv: the class of the convolution of the features, where it is one that enlarges them to the HR
    grid; else `conv`.
    """

    radius = 2  # HR pixels beyond its own that an output pixel depends on
    lr_radius = AMPLITUDE_WINDOW // 2 + 1  # LR pixels beyond its own, from the LR features on

    def __init__(self, conv, lr_channels, channels, noise, slopes, first_conv=None):
        super().__init__()
        self.conv = (first_conv or conv)(channels, channels, 3, padding=1)
        self.prelu = PReLU(slopes)
        self.detail = conv(channels, 1, 3, padding=1)
        self.amplitude = conv(lr_channels, GRAINS, 1)
        self.grain = conv(noise, GRAINS, 5, padding=2, bias=False)

    def initialize(self):
        """Make detail and grain zero everywhere, and the filters of noise Gaussians of different widths, each
        of one channel and of norm 1: grain of several colours without a direction.
        """
        for layer in (self.detail, self.amplitude):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        weight = nn.init.zeros_(self.grain.weight)  # [GRAINS, noise, 5, ...]
        noise, ndim = weight.shape[1], weight.dim() - 2
        steps = max(math.ceil(GRAINS / noise) - 1, 1)
        x = torch.arange(weight.shape[-1]) - weight.shape[-1] // 2
        for k in range(GRAINS):
            sigma = NARROWEST * (WIDEST / NARROWEST) ** (k // noise / steps)
            kernel = row = torch.exp(-(x**2) / (2 * sigma**2))
            for _ in range(ndim - 1):
                kernel = kernel[..., None] * row
            with torch.no_grad():
                weight[k, k % noise] = kernel / kernel.norm()

    @torch.no_grad()
    def start(self):
        """Begin with a little grain, unless there is some already. The narrowest filters begin with none:
        they are white, and where HR's noise is blurred no loss sees the last of them.

        Its strength enters most losses squared, so that from exactly none it would hardly grow, and the rest
        of the generator would draw strokes instead.
        """
        if not self.amplitude.bias.any():
            self.amplitude.bias[GRAINS // 4 :] = INITIAL_AMPLITUDE

    @property
    def adds_nothing(self):
        """Whether the output is zero everywhere, as it is until `start`."""
        layers = self.detail, self.amplitude
        return not any(parameter.any() for layer in layers for parameter in layer.parameters())

    def forward(self, features, lr_features, noise):
        pool, mode = POOL_AND_MODE[features.dim()]
        means = local_means(lr_features, pool)
        amplitude = F.interpolate(self.amplitude(means), noise.shape[2:], mode=mode)
        noise = noise.to(features.dtype)
        draws = [noise] if noise.shape[0] == features.shape[0] else noise.split(1)
        grains = [(amplitude * self.grain(draw)).sum(1, keepdim=True) for draw in draws]
        grain = grains[0] if len(grains) == 1 else torch.cat(grains)
        return self.detail(self.prelu(self.conv(features))) + grain


def local_means(x, pool):
    """Return the means of x over AMPLITUDE_WINDOW pixels along each axis, or those of them that x has."""
    window = AMPLITUDE_WINDOW, 1, AMPLITUDE_WINDOW // 2
    missing = [max(AMPLITUDE_WINDOW - side, 0) for side in reversed(x.shape[2:])]
    if not any(missing):
        return pool(x, *window, count_include_pad=False)
    # PyTorch's pooling of volumes takes none that is smaller than the window
    padding = [number for side in missing for number in (0, side)]
    sums, counts = (pool(F.pad(part, padding), *window) for part in (x, torch.ones_like(x)))
    return (sums / counts)[:, :, *(slice(side) for side in x.shape[2:])]


# Activation


class PReLU(nn.PReLU):
    """x where it is positive, else slope * x (He et al. 2015, "Delving deep into rectifiers"); slopes: one,
    or one per channel of x [B, C, ...].

    PyTorch's own gradient is one loop over single values on a CPU: a fifth of an update of phase 1. Made of
    four vectorised operations it takes a sixth of that time, and gives the same bits where all numbers are
    finite.
    """

    def forward(self, x):
        if x.device.type == "cpu" and x.dim() >= 4 and not torch.compiler.is_compiling():
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
        over_channels = slopes.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
        positive = torch.ops.aten.threshold_backward(gradient, x, 0)
        negative = gradient - positive
        of_slopes = (x * negative).sum(_all_but_channels(x) if slopes.numel() > 1 else None)
        return torch.addcmul(positive, negative, over_channels), of_slopes.to(slopes.dtype).view_as(slopes)


def _all_but_channels(x):
    return [0, *range(2, x.dim())]


# Batch normalisation (Ioffe & Szegedy 2015, equations 1 to 4), of each rank by itself or with the statistics
# of all


class _BatchNorm:
    """nn.BatchNorm without its own counting, which is a launch per layer: see `count_batch`."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalisation of [B, C, H, W]."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalisation of [B, C, D, H, W]."""


BATCH_NORM = {2: BatchNorm2d, 3: BatchNorm3d}


def count_batch(network):
    """Add a batch to `num_batches_tracked` of all batch normalisations of a network, in one launch."""
    counters = [module.num_batches_tracked for module in network.modules() if isinstance(module, _BatchNorm)]
    if counters:
        torch._foreach_add_(counters, 1)


def synchronise(network):
    """Take the statistics of all batch normalisations of a network over all ranks; names of weights stay."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _SYNCHRONISED[type(module)]


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; so is its gradient, for every rank's loss depends on every rank's
    term.
    """

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return SumOverRanks.apply(gradient)


class _SynchronisedBatchNorm:
    """Batch normalisation over the batches of all ranks, which have one shape: x [B, C, ...] -> the same.

    The sums travel over ranks forward and their gradients backward. PyTorch's nn.SyncBatchNorm needs a GPU,
    and there the host waits in every layer for the counts of the ranks, which may differ; here they do not.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        dims, per_channel = _all_but_channels(x), (1, -1, *[1] * (x.dim() - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = SumOverRanks.apply(wide.sum(dims)) / count
        centred = wide - mean.view(per_channel)
        variance = SumOverRanks.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor.view(per_channel) + self.bias.view(per_channel)).to(x.dtype)


class SynchronisedBatchNorm2d(_SynchronisedBatchNorm, BatchNorm2d):
    """Batch normalisation of [B, C, H, W] over all ranks."""


class SynchronisedBatchNorm3d(_SynchronisedBatchNorm, BatchNorm3d):
    """Batch normalisation of [B, C, D, H, W] over all ranks."""


_SYNCHRONISED = {
    synchronised.__mro__[2]: synchronised
    for synchronised in (SynchronisedBatchNorm2d, SynchronisedBatchNorm3d)
}
