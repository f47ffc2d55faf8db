"""Metrics of super-resolved images and volumes. They take whole images on [0, 1]: no border is shaved,
nothing is rounded.

sr and hr: float32 tensors [N, *shape] with data range 1, which for 8-bit images equals a peak of 255; shape
is (H, W) or (D, H, W). Every metric returns a tensor [N] on their device, one value per image; on a GPU the
host does not wait for it.
"""

import math
from functools import lru_cache

import torch

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.filters import filter_axes, gaussian

WINDOW = gaussian(sigma=1.5, radius=5)  # of SSIM, along each axis
SMALLEST_IMAGE = len(WINDOW)
GREY_LEVELS = 2**16  # of histograms; the levels of 8 bits are among them
EXACT_COPY_DB = 100.0  # PSNR of an image without any error, which formally is infinite
EXACT_COPY_MSE = 10 ** (-EXACT_COPY_DB / 10)  # less is rounding of float32


def mse(sr, hr):
    """Return the mean squared error."""
    return (sr - hr).square().mean(_axes(sr))


def _axes(images):
    """Return the spatial dimensions of [N, *shape]."""
    return tuple(range(1, images.dim()))


def psnr(sr, hr):
    """Return the peak signal-to-noise ratio in dB, 10 log10(1 / MSE); 100 dB at most."""
    return -10 * mse(sr, hr).double().clamp(min=EXACT_COPY_MSE).log10()


def psnr_of_mse(error):
    """Return the PSNR in dB that belongs to a mean squared error, a float."""
    return -10 * math.log10(max(error, EXACT_COPY_MSE))


def ssim(sr, hr):
    """Return the mean structural similarity of Wang et al. (2004), "Image quality assessment: from error
    visibility to structural similarity": Gaussian window of 11 pixels along each axis with sigma 1.5, K1 =
    0.01, K2 = 0.03, population variances, averaged over the windows that fit into the image. In 3-D the
    window is 11x11x11 voxels.
    """
    if min(sr.shape[1:]) < SMALLEST_IMAGE:
        size = "x".join(map(str, sr.shape[1:]))
        raise UserError(f"SSIM needs images of {SMALLEST_IMAGE} pixels or more along each axis, not {size}")
    mean_sr, mean_hr, square_sr, square_hr, product = (
        filter_axes(images, WINDOW, first=1) for images in (sr, hr, sr * sr, hr * hr, sr * hr)
    )
    variance_sr, variance_hr = square_sr - mean_sr**2, square_hr - mean_hr**2
    covariance = product - mean_sr * mean_hr
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_sr * mean_hr + c1) / (mean_sr**2 + mean_hr**2 + c1)
    structure = (2 * covariance + c2) / (variance_sr + variance_hr + c2)
    return (luminance * structure).mean(_axes(sr))


def ssim_slices(sr, hr):
    """Return the mean of the two-dimensional SSIM over the slices along z of volumes [N, D, H, W]: comparable
    with the SSIM of methods that work slice by slice.
    """
    return ssim(sr.flatten(0, 1), hr.flatten(0, 1)).view(sr.shape[:2]).mean(1)


def spectrum_error(sr, hr):
    """Return the mean absolute difference of the log radially averaged power spectra of sr and hr.

    0 means the same amount of texture at every scale; a blurred image lacks power at high frequencies,
    whatever its PSNR. Natural logarithm; frequencies up to Nyquist of the shortest side, without the mean.
    """
    return (radial_log_power(sr) - radial_log_power(hr)).abs().mean(-1)


def radial_log_power(images):
    """Return the log power spectrum of `images` [N, *shape], averaged over rings (in 3-D: shells) that are
    one cycle per image wide: [N, min(shape) // 2].

    A Hann window suppresses leakage from the jump between opposite borders (Welch 1967). Normalised so that
    white noise of variance v has the level log v; the floor of 1e-10 is below the quantisation noise of 8
    bit.
    """
    axes, shape = _axes(images), tuple(images.shape[1:])
    window, ring, counts = _rings(shape, images.device)
    spectrum = torch.fft.fftn((images - images.mean(axes, keepdim=True)) * window, dim=axes)
    power = (spectrum.abs() ** 2 / (window**2).sum()).flatten(1)
    total = torch.zeros(len(power), len(counts), device=images.device).index_add_(-1, ring, power)
    return torch.log((total / counts)[:, 1 : min(shape) // 2 + 1] + 1e-10)


@lru_cache(maxsize=4)
def _rings(shape, device):
    """Return for images of a shape the window [*shape], the ring of each frequency, flat, and the size of
    each ring.
    """
    side = min(shape)
    window, radius = torch.ones((), device=device), torch.zeros((), device=device)
    for length in shape:
        window = window[..., None] * torch.hann_window(length, device=device)
        radius = torch.hypot(radius[..., None], torch.fft.fftfreq(length, device=device) * side)
    ring = radius.round().long().clamp(max=side // 2 + 1).flatten()
    return window, ring, torch.bincount(ring, minlength=side // 2 + 2).clamp(min=1)


def axis_spectrum_error(sr, hr, axis):
    """Return the mean absolute difference of the log power spectra of lines along one axis of sr and hr.

    axis: 0 to ndim - 1, of the shape. A volume that was super-resolved slice by slice lacks power along z
    alone, which a mean over shells hides. Natural logarithm; frequencies up to Nyquist, without the mean.
    """
    return (axis_log_power(sr, axis) - axis_log_power(hr, axis)).abs().mean(-1)


def axis_log_power(images, axis):
    """Return the log power spectrum of the lines of `images` [N, *shape] along an axis, averaged over all
    lines: [N, shape[axis] // 2]; Hann window, level and floor as in `radial_log_power`.
    """
    lines = (images - images.mean(_axes(images), keepdim=True)).movedim(axis + 1, -1)
    window = torch.hann_window(lines.shape[-1], device=images.device)
    power = torch.fft.rfft(lines * window).abs() ** 2 / (window**2).sum()
    return torch.log(power.flatten(1, -2).mean(1)[:, 1 : lines.shape[-1] // 2 + 1] + 1e-10)


def mean_shift(sr, hr):
    """Return the mean grey level of sr minus that of hr, in percent of the range."""
    return 100 * (sr.mean(_axes(sr)) - hr.mean(_axes(hr)))


def histogram_distance(sr, hr):
    """Return the Wasserstein-1 distance of the grey levels of sr and hr in percent of the range: the mean
    distance by which grey levels have to be moved to turn one histogram into the other (Vallender 1974: the
    area between the two cumulative distributions). Exact for images of 8 and 16 bits.
    """
    between = _cumulative(sr) - _cumulative(hr)
    return 100 * between[:, :-1].abs().mean(-1)


def _cumulative(images):
    """Return the share of pixels at or below each of the grey levels of 16 bits: [N, 65536] float64."""
    levels = (images.nan_to_num(0).clamp(0, 1) * (GREY_LEVELS - 1)).round().long().flatten(1)
    counts = torch.zeros(len(levels), GREY_LEVELS, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(-1, levels, torch.ones_like(levels)).cumsum(-1).double() / levels.shape[-1]


def relative_error_reduction(error, bicubic_error):
    """Return the share of bicubic's mean squared error that is removed: 1 - MSE / MSE_bicubic, between -1 and
    1.

    Where bicubic makes no error (a blank image: 100 dB) nothing can be gained: 0. More than twice its error
    counts as -1; otherwise one almost flat image, where bicubic is almost exact, would outweigh all others in
    a mean.
    """
    if bicubic_error <= EXACT_COPY_MSE:
        return 0.0
    return max(1 - error / bicubic_error, -1.0)
