"""From the LR grid to the HR grid: sub-pixel convolutions, and convolutions of what nearest neighbours or
interpolation have enlarged, for images [B, C, H, W] and volumes [B, C, D, H, W].
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from srgan_dist.models.layers import CONV, Conv3d, PReLU, conv3d

LINEAR = {2: "bilinear", 3: "trilinear"}  # interpolation by the number of dimensions


def stages_of(scale):
    """Return the factors of the upsampling stages: twos and threes, whose product is the scale."""
    twos = int(math.log2(scale & -scale))
    return [2] * twos + [3] * (scale >> twos == 3)


def upsampling_radius(scale, behind=0, mode="shuffle"):
    """Return how many LR pixels beyond its own an HR pixel depends on through the upsampling; rounded up.

    Every stage has one 3-wide convolution; `mode` (srresnet.UPSAMPLING) says whether before or behind its
    enlargement. behind: HR pixels that the layers behind the upsampling look beyond their own.
    """
    radius = behind
    for factor in reversed(stages_of(scale)):
        if mode == "trilinear":  # an interpolated pixel lies between the centres of two
            radius = math.ceil((factor + 2 * radius + 1) / (2 * factor))
        elif mode == "nearest_before":
            radius = math.ceil((radius + 1) / factor)
        else:
            radius = math.ceil(radius / factor) + 1
    return radius


class PixelShuffle(nn.Module):
    """Channels to space (Shi et al. 2016, "Real-time single image and video super-resolution using an
    efficient sub-pixel convolutional neural network"): [B, factor^n * C, *shape] -> [B, C, *(factor *
    shape)], n dimensions; the memory format stays.
    """

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return channels_to_space(x, self.factor)


def channels_to_space(x, factor):
    """Return x [B, factor^n * C, *shape] as [B, C, *(factor * shape)], in the memory format of x."""
    if x.dim() == 4:
        return F.pixel_shuffle(x, factor)
    batch, channels, *shape = x.shape
    n, width = len(shape), channels // factor ** len(shape)
    phases = x.view(batch, width, *[factor] * n, *shape)
    interleaved = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]
    enlarged = [factor * size for size in shape]
    if x.is_contiguous(memory_format=torch.channels_last_3d):
        return phases.permute(0, *interleaved, 1).reshape(batch, *enlarged, width).movedim(-1, 1)
    return phases.permute(0, 1, *interleaved).reshape(batch, width, *enlarged)


# Convolution of what nearest neighbours have enlarged, without that image


class _NearestConv:
    """Enlarges x [B, C, *shape] by nearest neighbours to `factor` times the size and convolves that, with
    zeros around it, but never makes it. Weights have the names and shapes of the convolution.

    Of its taps along an axis all that fall on the same pixel of x are summed beforehand. A kernel of 3 then
    has two taps for each of the factor^n positions within a pixel, in place of three: in volumes 8 for 27.
    """

    def __init__(self, channels_in, channels_out, kernel_size, padding, factor):
        assert kernel_size == 2 * padding + 1
        super().__init__(channels_in, channels_out, kernel_size, padding=padding)
        self.factor = factor

    def forward(self, x):
        kernel = sum_taps(self.weight, self.factor)
        positions = self.factor ** (x.dim() - 2)
        convolve = F.conv2d if x.dim() == 4 else conv3d
        reach = kernel.shape[-1] - 1
        y = channels_to_space(
            convolve(x, kernel, self.bias.repeat_interleave(positions), padding=reach), self.factor
        )
        first = self.factor * reach - self.padding[0]  # of y, which begins outside the image
        for axis, size in enumerate(x.shape[2:], 2):
            y = y.narrow(axis, first, self.factor * size)
        return y


class NearestConv2d(_NearestConv, nn.Conv2d):
    """Convolution of images enlarged by nearest neighbours."""


class NearestConv3d(_NearestConv, Conv3d):
    """Convolution of volumes enlarged by nearest neighbours."""


def sum_taps(weight, factor):
    """Return the kernels of all positions within a pixel, [factor^n * O, I, *taps], from a kernel [O, I, k,
    ...] on the enlarged grid, k odd.

    The enlarged grid is cut into runs of `factor` positions, of which position p at tap t reads the pixel
    (p + t) // factor of those the run reads. Position (p, q, r) of output o is channel o * factor^n + p *
    factor^2 + q * factor + r, as `channels_to_space` wants it.
    """
    n, size = weight.dim() - 2, weight.shape[-1]
    taps = (factor + size - 2) // factor + 1
    position, tap = (torch.arange(count, device=weight.device) for count in (factor, size))
    pixel = torch.arange(taps, device=weight.device)
    reads = (position[:, None] + tap) // factor == pixel[:, None, None]  # [pixel, position, tap]
    kernels = weight.to(torch.promote_types(weight.dtype, torch.float32))  # the sums are rounded once
    for _ in range(n):  # the first axis of taps becomes two at the end: pixels and positions
        kernels = (kernels.movedim(2, -1)[..., None, None, :] * reads).sum(-1)
    pixels, positions = range(2, 2 + 2 * n, 2), range(3, 3 + 2 * n, 2)
    return (
        kernels.permute(0, *positions, 1, *pixels).reshape(-1, weight.shape[1], *[taps] * n).to(weight.dtype)
    )


NEAREST_CONV = {2: NearestConv2d, 3: NearestConv3d}
NEAREST_CONVS = tuple(NEAREST_CONV.values())


def conv_behind_nearest(ndim, factor):
    """Return the class of a convolution of what nearest neighbours have enlarged by a factor; 1: not at
    all.
    """
    return CONV[ndim] if factor == 1 else partial(NEAREST_CONV[ndim], factor=factor)


# Stages: [B, channels, *shape] -> [B, width, *(factor * shape)]


class UpscaleLayer(nn.Module):
    """conv3 to factor^n times the channels, which the pixel shuffle turns into `factor` times the size,
    PReLU.
    """

    def __init__(self, ndim, channels, width, slopes, factor):
        super().__init__()
        self.conv = CONV[ndim](channels, factor**ndim * width, 3, padding=1)
        self.shuffle = PixelShuffle(factor)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.shuffle(self.conv(x)))

    @torch.no_grad()
    def repeat_weights(self):
        """Give all positions within a pixel the same weights: at first the stage is a convolution and nearest
        neighbours, and draws no pattern (ICNR; Aitken et al. 2017, "Checkerboard artifact free sub-pixel
        convolution").
        """
        positions = self.shuffle.factor ** (self.conv.weight.dim() - 2)
        for weight in self.conv.parameters():
            weight.copy_(weight[::positions].repeat_interleave(positions, 0))


class NearestLayer(nn.Module):
    """Nearest neighbours to `factor` times the size, conv3, PReLU (Odena et al. 2016, "Deconvolution and
    checkerboard artifacts").
    """

    def __init__(self, ndim, channels, width, slopes, factor):
        super().__init__()
        self.conv = conv_behind_nearest(ndim, factor)(channels, width, 3, padding=1)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.conv(x))


class LinearLayer(nn.Module):
    """Bilinear (volumes: trilinear) interpolation to `factor` times the size, conv3, PReLU."""

    def __init__(self, ndim, channels, width, slopes, factor):
        super().__init__()
        self.factor, self.mode = factor, LINEAR[ndim]
        self.conv = CONV[ndim](channels, width, 3, padding=1)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.conv(F.interpolate(x, scale_factor=self.factor, mode=self.mode)))
