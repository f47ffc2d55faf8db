"""Registration of two scans of one rock: shift, point spread and grey levels of LR with respect to HR.

Phase correlation (Kuglin and Hines, 1975) on the LR grid finds the shift to a whole LR voxel. From there
least squares fit the model of `degradation.ScanLike`: HR blurred by a Gaussian, sampled at shifted LR voxel
centres, times a gain, plus an offset. Gain and offset are solved for inside (variable projection: Golub and
Pereyra, 1973), so only the shift and the width of the Gaussian are searched.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import fft, optimize

from srgan_dist.data.degradation import blur, downsample

SMALLEST = 8  # LR voxels along an axis


class Alignment(NamedTuple):
    """lr = gain * (hr blurred by blur_sigma, at p + shift) + offset + residual."""

    shift: tuple  # HR voxels per axis: LR at HR position p shows what HR has at p + shift
    blur_sigma: float  # HR voxels
    gain: float
    offset: float  # grey levels
    residual: float  # root mean square, grey levels
    correlation: float  # Pearson's, of LR and the blurred HR


class Overlap(NamedTuple):
    """The largest parts of both sides that show one place, each in voxels of its own grid."""

    hr_corner: tuple
    lr_corner: tuple
    lr_shape: tuple  # that of the HR part is scale times it


def find_shift(hr, lr, scale):
    """Register hr [s*D, s*H, s*W] and lr [D, H, W] of any number of axes, s = scale; returns an Alignment.

    What exceeds the common size of both is not looked at. Raises ValueError for fewer than SMALLEST LR voxels
    along an axis, and where a side has one grey level only.
    """
    size = [min(fine // scale, coarse) for fine, coarse in zip(hr.shape, lr.shape, strict=True)]
    if min(size) < SMALLEST:
        raise ValueError(
            f"{'x'.join(map(str, size))} LR voxels are too few; {SMALLEST} per axis at least. Leave the pair"
            " out, or crop both sides by hand and leave out --align"
        )
    hr, lr = hr[tuple(slice(n * scale) for n in size)], lr[tuple(map(slice, size))].astype(np.float64)
    if hr.min() == hr.max() or lr.min() == lr.max():
        raise ValueError("one side has a single grey level")
    start = [scale * step for step in _phase_shift(downsample(hr, scale, "box"), lr)]
    inside = tuple(slice(n // SMALLEST, n - n // SMALLEST) for n in size)  # away from mirrored borders

    def fitted(values):
        *shift, sigma = values
        model, target = blur(hr, scale, sigma, shift)[inside], lr[inside]
        gain = np.vdot(model - model.mean(), target) / (model.size * max(model.var(), 1e-12))
        offset = target.mean() - gain * model.mean()
        return model, target, gain, offset

    def residuals(values):
        model, target, gain, offset = fitted(values)
        return (target - gain * model - offset).ravel()

    found = optimize.least_squares(
        residuals,
        [*start, 0.7 * scale],
        bounds=([s - 2 * scale for s in start] + [0.2], [s + 2 * scale for s in start] + [4 * scale]),
        xtol=1e-4,
        ftol=1e-6,
    )
    model, target, gain, offset = fitted(found.x)
    *shift, sigma = map(float, found.x)
    correlation = np.corrcoef(model.ravel(), target.ravel())[0, 1]
    residual = math.sqrt(np.mean(found.fun**2))
    return Alignment(tuple(shift), sigma, float(gain), float(offset), residual, float(correlation))


def _phase_shift(coarse, lr):
    """Return the whole LR voxels at which `coarse`, read at p + shift, looks most like `lr` at p."""
    spectra = [fft.rfftn(faded(image)) for image in (coarse, lr)]
    cross = spectra[0] * spectra[1].conj()
    peaks = fft.irfftn(cross / np.maximum(np.abs(cross), 1e-12), lr.shape)
    peak = np.unravel_index(peaks.argmax(), peaks.shape)
    return [int(step) - n if step > n // 2 else int(step) for step, n in zip(peak, lr.shape)]


def faded(image):
    """Return the image without its mean, faded out by a Hann window, so that its borders are no edges."""
    image = image - image.mean()
    for axis, size in enumerate(image.shape):
        window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
        image *= window.reshape([size if a == axis else 1 for a in range(image.ndim)])
    return image


def overlap(hr_shape, lr_shape, scale, shift):
    """Return the Overlap of two scans whose whole HR voxels of `shift` are made up for.

    All axes as in `find_shift`. Raises ValueError where nothing is left.
    """
    hr_corner, lr_corner, size = [], [], []
    for fine, coarse, step in zip(hr_shape, lr_shape, map(round, shift), strict=True):
        first = -(min(0, step) // scale)  # LR voxels before the first that HR holds whole
        last = min(coarse, (fine - step) // scale)
        hr_corner.append(scale * first + step)
        lr_corner.append(first)
        size.append(last - first)
    if min(size) < 1:
        raise ValueError(f"nothing is left of both after a shift of {tuple(map(round, shift))} HR voxels")
    return Overlap(tuple(hr_corner), tuple(lr_corner), tuple(size))
