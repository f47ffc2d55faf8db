"""Measures of artificial texture: what no rock shows, and a mean over rings of frequencies does not see.

sr and hr: as in `evaluation/metrics.py`, [N, *shape] float32 on [0, 1]; every axis begins with an LR pixel.
Each measure of one image is a function of its own, so that SR can be compared with what HR itself shows.
"""

import itertools
import math
from functools import lru_cache

import torch
from torch.nn import functional as F

from srgan_dist.utils.filters import filter_axes, gaussian
from srgan_dist.utils.stationarity import phase_moments

DETAIL_SIGMA = 2  # pixels, of the Gaussian whose difference from the image is fine detail
RING = 8  # frequencies around each of the lattice, from which HR's level is taken, and SR's at least
MEDIAN_OF_EXPONENTIAL = math.log(2)  # over its mean: power in a band of noise is exponentially distributed
SECTORS = 18  # of 10 degrees
PHASE_DEPENDENCE = 0.05  # above HR's own; bicubic and networks of phase 1 have up to that
LATTICE_EXCESS = 10.0  # dB above HR's own; a hatch that one sees has 15 and more, in all of the image 20
FLOOR = 1 / (12 * 255**2)  # of power and variance: the quantisation noise of 8 bit


def phase_dependence(sr, hr, scale):
    """Return how much the covariances of sr's fine detail depend on the sub-pixel phase.

    The root mean square, over phases and offsets, of the covariance at a phase minus its mean over phases,
    over the mean square of hr's fine detail. A pattern of the upsampling is seen even where its sign changes
    from place to place, as second-order cyclostationarity (Gardner, Napolitano, Paura 2006). HR itself has
    0.01 or so, by chance.
    """
    values = []
    for one, other in zip(sr, hr, strict=True):
        _, covariances = phase_moments(_fine_detail(one)[None], scale)
        deviations = covariances - covariances.flatten(1).mean(1).view(-1, *[1] * one.dim())
        unit = _fine_detail(other).square().mean().clamp(min=FLOOR)
        values.append(deviations.square().mean().sqrt() / unit)
    return torch.stack(values)


def _fine_detail(image):
    """Return an image [*shape] minus its Gaussian blur."""
    window = gaussian(DETAIL_SIGMA, 4 * DETAIL_SIGMA)
    wide = F.pad(image[None, None], [len(window) // 2] * 2 * image.dim(), mode="replicate")
    return image - filter_axes(wide, window, first=2)[0, 0]


def lattice_excess(sr, hr, scale):
    """Return the power of sr at the frequencies (k/scale, j/scale) over the power around each, of hr or of
    sr itself, whichever is larger, in dB; the largest of all.

    At a frequency the mean over three along each axis, around it a median, as a mean of noise: of hr over 17
    along each axis, of sr over all that are nearer to it than to the next frequency of the lattice, 17 at
    least. A pattern that is the same everywhere stands out by tens of dB; HR itself has 2 to 5 dB, as the
    largest of several random numbers. Grain that is stronger or whiter than HR's is no pattern: all around it
    is as strong. A pattern in parts of the image spreads over some frequencies, and is one.
    """
    powers = [_power(images) for images in (sr, hr)]
    half_way = [max(RING, length // (2 * scale) - 1) for length in sr.shape[1:]]
    radii = half_way, [RING] * len(half_way)
    multiples = range(-((scale - 1) // 2), scale // 2 + 1)
    excesses = []
    for multiple in itertools.product(multiples, repeat=len(half_way)):
        first = next((k for k in multiple if k), 0)
        if first <= 0:  # the mean, and the other half of the spectrum
            continue
        at = [round(length * k / scale) for length, k in zip(sr.shape[1:], multiple, strict=True)]
        line = _around(powers[0], at, [1] * len(at)).mean(1)
        around = [
            _around(power, at, radius).median(1).values for power, radius in zip(powers, radii, strict=True)
        ]
        around = (torch.maximum(*around) / MEDIAN_OF_EXPONENTIAL).clamp(min=FLOOR)
        excesses.append(10 * torch.log10(line.clamp(min=FLOOR) / around))
    return torch.stack(excesses).amax(0)


def _around(power, at, radii):
    """Return the power [N, M] at the frequencies within some `radii`, along each axis, of one."""
    for axis, (centre, radius, length) in enumerate(zip(at, radii, power.shape[1:], strict=True), start=1):
        places = torch.arange(centre - radius, centre + radius + 1, device=power.device) % length
        power = power.index_select(axis, places)
    return power.flatten(1)


def directional_spectrum_error(sr, hr, scale):
    """Return the mean absolute difference of the log power of sr and hr per direction, over the frequencies
    that LR does not have.

    The directions are 18 sectors of 10 degrees in the plane of frequencies; a hatch or a grain of one
    direction shows, which a ring hides. Natural logarithm. Of volumes the mean over the slices across each
    axis.
    """
    return (directional_log_power(sr, scale) - directional_log_power(hr, scale)).abs().mean(-1)


def directional_log_power(images, scale):
    """Return the log power of images [N, *shape] in 18 sectors of direction, between the Nyquist frequencies
    of LR and HR: [N, 18]; of volumes [N, 3 * 18], of the mean over the slices across z, y and x.
    """
    if images.dim() == 3:
        return _log_power_of_sectors(_power(images), scale)
    planes = [images.movedim(axis, 1) for axis in (1, 2, 3)]
    powers = [_power(plane.flatten(0, 1)).view(plane.shape).mean(1) for plane in planes]
    return torch.cat([_log_power_of_sectors(power, scale) for power in powers], -1)


def _log_power_of_sectors(power, scale):
    sector, counts = _sectors(tuple(power.shape[1:]), scale, power.device)
    total = torch.zeros(len(power), SECTORS + 1, device=power.device).index_add_(-1, sector, power.flatten(1))
    return torch.log(total[:, :SECTORS] / counts + FLOOR)


@lru_cache(maxsize=8)
def _sectors(shape, scale, device):
    """Return the sector of every frequency of images [H, W], flat (SECTORS: outside of the band), and the
    size of each.
    """
    y, x = (torch.fft.fftfreq(length, device=device) for length in shape)
    radius = torch.hypot(y[:, None], x)
    angle = torch.atan2(y[:, None].expand_as(radius), x.expand_as(radius)) % math.pi
    sector = (angle * SECTORS / math.pi + 0.5).long() % SECTORS
    sector[(radius <= 0.5 / scale) | (radius > 0.5)] = SECTORS
    sector = sector.flatten()
    return sector, torch.bincount(sector, minlength=SECTORS + 1)[:SECTORS].clamp(min=1)


def _power(images):
    """Return the power spectrum of images [N, *shape] under a Hann window; white noise of variance v has
    v.
    """
    axes = tuple(range(1, images.dim()))
    window = torch.ones((), device=images.device)
    for length in images.shape[1:]:
        window = window[..., None] * torch.hann_window(length, device=images.device)
    spectrum = torch.fft.fftn((images - images.mean(axes, keepdim=True)) * window, dim=axes)
    return spectrum.abs() ** 2 / (window**2).sum()


def shows_pattern(dependence, excess):
    """Return whether SR shows a pattern with the period of the upsampling that one sees: phase dependence and
    lattice excess (dB), both above HR's own.
    """
    return dependence > PHASE_DEPENDENCE or excess > LATTICE_EXCESS
