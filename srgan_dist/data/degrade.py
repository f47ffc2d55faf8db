"""Degradations of LR crops on the device: blur, gain and noise that differ from crop to crop, so that a
network learns from scans worse than those of its set.

What a crop gets is a pure function of the seed and the number of its slot, as its corner is: the same on any
number of ranks, after a resume, in any order. `data/degradation.py` makes LR of HR, once, for a set.
"""

import math
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from srgan_dist.data.noise import noise_at, seeds_of
from srgan_dist.data.value_range import to_float
from srgan_dist.utils.settings import Settings

STREAM = 0x5DEECE66D1CE4E5B  # apart from the noise that a generator is given
REACH = 4  # sigmas to which a blur reaches


def _ordered(bounds):
    if bounds[0] > bounds[1]:
        raise ValueError(
            f"the lower bound {bounds[0]:g} is above the upper one, {bounds[1]:g}; exchange them"
        )
    return bounds


def range_of(least, most):
    bound = Annotated[float, Field(ge=least, le=most)]
    return Annotated[list[bound], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class DegradationConfig(Settings):
    """Ranges from which the degradation of each LR crop is drawn, evenly; in the order of application."""

    blur_sigma: range_of(0, 16) = Field(
        [0.0, 0.0],
        description="[least, most] of the Gaussian blur in LR pixels, because LR is what is blurred; at scale"
        " s a sigma of x LR pixels are s times x HR pixels",
    )
    gain: range_of(0.1, 10) = Field(
        [1.0, 1.0], description="[least, most] of the factor of the grey levels, about level 0"
    )
    noise: range_of(0, 1) = Field(
        [0.0, 0.0],
        description="[least, most] standard deviation of white Gaussian noise, as a share of the range of"
        " grey levels: 0.02 are 5.1 levels of 8 bits",
    )


def degrade_crops(lr, seed, slots, config):
    """Degrade the LR crops of some slots, each by its own draw: integers [B, 1, *shape], of the same type.

    slots: [B] int64 on the same device. config: DegradationConfig.
    """
    seeds = seeds_of(seed ^ STREAM, slots)
    sigma, gain, noise = (
        drawn(seeds, number, bounds)
        for number, bounds in enumerate((config.blur_sigma, config.gain, config.noise))
    )
    noise = noise if config.noise[1] else None
    return degrade(lr, seeds, sigma, gain, noise, reach_of(config.blur_sigma[1]))


def degrade(lr, seeds, sigma, gain, noise, reach):
    """Blur, scale and add noise, then round to grey levels once, clipped to the range of the type.

    lr: integers [B, 1, *shape]. seeds: [B] int64, of the noise. sigma: [B] LR pixels. gain: [B]. noise: [B]
    standard deviation as a share of the range; None: no noise. reach: of the blur, `reach_of` the largest
    sigma. Borders are mirrored.

    All is computed pixel by pixel in one order, so that the bits are those of each crop alone.
    """
    peak, axes = torch.iinfo(lr.dtype).max, lr.dim() - 2
    of_crop = (-1, 1, *[1] * axes)
    x = blur_mirrored(to_float(lr), sigma, reach)
    x = x * gain.view(of_crop)
    if noise is not None:
        x = x + noise_at(seeds, [0] * axes, lr.shape[2:], 1) * (noise * peak).view(of_crop)
    x = (x + 0.5).floor_().clamp_(0, peak)
    if lr.dtype == torch.uint16:
        return x.to(torch.int32).to(torch.int16).view(torch.uint16)
    return x.to(lr.dtype)


def reach_of(sigma):
    """Return to how many pixels a blur of a sigma, or of less, reaches."""
    return math.ceil(REACH * sigma)


def blur_mirrored(x, sigma, reach):
    """Blur each image of a batch [B, C, *shape] by a Gaussian of its own sigma [B], sampled at whole pixels
    up to `reach`; 0: none. Borders are mirrored.
    """
    if not reach:
        return x
    steps = torch.arange(reach + 1, device=x.device)
    taps = torch.exp(-0.5 * (steps / sigma.clamp(min=1e-3)[:, None]) ** 2)
    total = taps[:, 0]
    for k in range(1, reach + 1):
        total = total + 2 * taps[:, k]
    taps = (taps / total[:, None]).view(len(x), reach + 1, *[1] * (x.dim() - 1))
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        positions = torch.arange(-reach, size + reach, device=x.device) % (2 * size)
        padded = x.index_select(axis, torch.where(positions < size, positions, 2 * size - 1 - positions))
        x = taps[:, 0] * padded.narrow(axis, reach, size)
        for k in range(1, reach + 1):
            both = padded.narrow(axis, reach - k, size) + padded.narrow(axis, reach + k, size)
            x = x + taps[:, k] * both
    return x


def drawn(seeds, number, bounds):
    """Return a value of its own for every seed, evenly between bounds: float32 [B]."""
    hashes = seeds_of(number, seeds)
    share = ((hashes >> 40) & (2**24 - 1)).float() / 2**24
    return bounds[0] + (bounds[1] - bounds[0]) * share
