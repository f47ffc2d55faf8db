"""How good super-resolved images are. All metrics take whole images on [0, 1]: no border is shaved, nothing rounded.

sr and hr: float32 tensors [..., H, W] with data range 1, which for 8-bit images equals a peak of 255. Every metric returns
a tensor [...] on their device, a number per image; on a GPU the host does not wait for it.
"""

import math
from functools import lru_cache

import torch

SMALLEST_IMAGE = 11  # pixels a side: the window of SSIM
GREY_LEVELS = 2**16  # of histograms; the levels of 8 bits are among them
EXACT_COPY_DB = 100.0  # PSNR of an image without any error, which formally is infinite
EXACT_COPY_MSE = 10 ** (-EXACT_COPY_DB / 10)  # less is rounding of float32
OVER_IMAGE = (-2, -1)  # dimensions


def mse(sr, hr):
    """Return the mean squared error."""
    return (sr - hr).square().mean(OVER_IMAGE)


def psnr(sr, hr):
    """Return the peak signal-to-noise ratio in dB, 10 log10(1 / MSE); 100 dB at most."""
    return -10 * mse(sr, hr).double().clamp(min=EXACT_COPY_MSE).log10()


def psnr_of_mse(error):
    """Return the PSNR in dB that belongs to a mean squared error, a float."""
    return -10 * math.log10(max(error, EXACT_COPY_MSE))


def ssim(sr, hr):
    """Return the mean structural similarity of Wang et al. (2004), "Image quality assessment: from error visibility
    to structural similarity": Gaussian window of 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population variances,
    averaged where the window lies inside the image. Images need 11 pixels or more a side.
    """
    if min(sr.shape[-2:]) < SMALLEST_IMAGE:
        raise ValueError(f"SSIM needs images of 11x11 pixels or more, not {tuple(sr.shape[-2:])}")
    mean_sr, mean_hr, square_sr, square_hr, product = _gaussian_means(
        torch.stack([sr, hr, sr * sr, hr * hr, sr * hr])
    )
    variance_sr, variance_hr = square_sr - mean_sr**2, square_hr - mean_hr**2
    covariance = product - mean_sr * mean_hr
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_sr * mean_hr + c1) / (mean_sr**2 + mean_hr**2 + c1)
    structure = (2 * covariance + c2) / (variance_sr + variance_hr + c2)
    return (luminance * structure).mean(OVER_IMAGE)


def _gaussian_means(images):
    """Filter [..., H, W] with the window of SSIM, where it fits: [..., H-10, W-10]."""
    x = torch.arange(-5, 6, dtype=images.dtype, device=images.device)
    window = torch.exp(-(x**2) / (2 * 1.5**2))
    window = window / window.sum()
    height, width = images.shape[-2:]
    # shifted sums: four times faster on CPU than a convolution of one channel
    rows = sum(weight * images[..., k : k + height - 10, :] for k, weight in enumerate(window))
    return sum(weight * rows[..., k : k + width - 10] for k, weight in enumerate(window))


def spectrum_error(sr, hr):
    """Return the mean absolute difference of the log radially averaged power spectra of sr and hr.

    0 means the same amount of texture at every scale; a blurred image lacks power at high frequencies, whatever its
    PSNR. Natural logarithm; frequencies up to Nyquist of the shorter side, without the mean.
    """
    return (radial_log_power(sr) - radial_log_power(hr)).abs().mean(-1)


def radial_log_power(image):
    """Return the log power spectrum of `image` [..., H, W] averaged over rings one cycle per image wide: [..., min(H, W) // 2].

    A Hann window keeps the borders' jump out of it (Welch 1967). Normalised so that white noise of variance v has
    the level log v; the floor of 1e-10 lies below the quantisation noise of 8 bit.
    """
    window, ring, counts = _rings(*image.shape[-2:], image.device)
    spectrum = torch.fft.fft2((image - image.mean(OVER_IMAGE, keepdim=True)) * window)
    power = (spectrum.abs() ** 2 / (window**2).sum()).flatten(-2)
    total = torch.zeros(*power.shape[:-1], len(counts), device=image.device).index_add_(-1, ring, power)
    return torch.log((total / counts)[..., 1 : min(image.shape[-2:]) // 2 + 1] + 1e-10)


@lru_cache(maxsize=8)
def _rings(height, width, device):
    """Return for images of a size the window [H, W], the ring of each frequency [H*W], and how many each ring has."""
    window = torch.outer(torch.hann_window(height, device=device), torch.hann_window(width, device=device))
    side = min(height, width)
    rows = torch.fft.fftfreq(height, device=device)[:, None] * side
    columns = torch.fft.fftfreq(width, device=device)[None, :] * side
    ring = torch.hypot(rows, columns).round().long().clamp(max=side // 2 + 1).flatten()
    return window, ring, torch.bincount(ring, minlength=side // 2 + 2).clamp(min=1)


def mean_shift(sr, hr):
    """Return by how much the mean grey level of sr lies above that of hr, in percent of the range."""
    return 100 * (sr.mean(OVER_IMAGE) - hr.mean(OVER_IMAGE))


def histogram_distance(sr, hr):
    """Return the Wasserstein-1 distance of the grey levels of sr and hr in percent of the range: how far a grey level has
    to be moved on average to turn one histogram into the other (Vallender 1974: the area between the two cumulative
    distributions). Exact for images of 8 and 16 bits.
    """
    between = _cumulative(sr) - _cumulative(hr)
    return 100 * between[..., :-1].abs().mean(-1)


def _cumulative(image):
    """Return the share of pixels at or below each of the grey levels of 16 bits: [..., 65536] float64."""
    levels = (image.nan_to_num(0).clamp(0, 1) * (GREY_LEVELS - 1)).round().long().flatten(-2)
    counts = torch.zeros(*levels.shape[:-1], GREY_LEVELS, dtype=torch.int64, device=image.device)
    return counts.scatter_add_(-1, levels, torch.ones_like(levels)).cumsum(-1).double() / levels.shape[-1]


def relative_error_reduction(error, bicubic_error):
    """Return the share of bicubic's mean squared error that is gone: 1 - MSE / MSE_bicubic, between -1 and 1.

    Where bicubic makes no error (a blank image: 100 dB) nothing can be gained: 0. More than twice its error counts as
    -1, or one almost flat image, where bicubic is almost exact, would outweigh all others in a mean.
    """
    if bicubic_error <= EXACT_COPY_MSE:
        return 0.0
    return max(1 - error / bicubic_error, -1.0)
