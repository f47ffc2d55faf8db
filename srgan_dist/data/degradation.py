"""MATLAB-exact image resizing: how DeepRock-SR made its low-resolution side, and the bicubic baseline; and LR
images as a scanner with larger voxels makes them.

The rules of MATLAB's `imresize`: pixel centres are at half-integers; the kernel is widened by the scale when
shrinking (antialiasing) and not when enlarging; weights are normalised; borders are mirrored; one pass per
axis, all in float, and the result is rounded once. Kernels of other libraries differ in one of these points.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def _box(x):
    return ((-0.5 <= x) & (x < 0.5)).astype(float)


def _bilinear(x):
    return np.clip(1 - np.abs(x), 0, None)


def _bicubic(x):
    """Keys (1981), "Cubic convolution interpolation for digital image processing", with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0))


def _lanczos2(x):
    return np.sinc(x) * np.sinc(x / 2) * (np.abs(x) < 2)


def _lanczos3(x):
    return np.sinc(x) * np.sinc(x / 3) * (np.abs(x) < 3)


# name -> (kernel function, width of its support in pixels)
KERNELS = {
    "bilinear": (_bilinear, 2),
    "bicubic": (_bicubic, 4),
    "lanczos2": (_lanczos2, 4),
    "lanczos3": (_lanczos3, 6),
    "box": (_box, 1),
}

# The kernels behind DeepRock-SR's "unknown" set, as far as they were identified from its images.
UNKNOWN_KERNELS = ("bilinear", "bicubic", "lanczos2", "lanczos3")


@lru_cache(maxsize=32)
def weights_of_axis(size_in, size_out, kernel):
    """Return the matrix [size_out, size_in] that resizes one axis."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} is not known; use one of {', '.join(KERNELS)}")
    function, support = KERNELS[kernel]
    stretch = max(1.0, size_in / size_out)
    width = support * stretch
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    taps = np.floor(centres - width / 2)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = function((centres[:, None] - taps) / stretch)
    matrix = _mirrored(weights, taps, size_in)
    matrix.flags.writeable = False  # shared by every caller through the cache
    return matrix


def _mirrored(weights, taps, size_in):
    """Normalise weights [size_out, taps] and enter them into a matrix [size_out, size_in], mirrored at both
    ends.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    mirrored = np.mod(taps, 2 * size_in)
    mirrored = np.where(mirrored < size_in, mirrored, 2 * size_in - 1 - mirrored).astype(int)
    matrix = np.zeros((len(weights), size_in))
    np.add.at(matrix, (np.arange(len(weights))[:, None], mirrored), weights)
    return matrix


def resize(image, shape, kernel):
    """Resize the last len(shape) axes of `image` to `shape`: float64, neither rounded nor clipped."""
    sizes = image.shape[image.ndim - len(shape) :]
    return _apply([weights_of_axis(*each, kernel) for each in zip(sizes, shape, strict=True)], image)


def _apply(matrices, image):
    """Multiply the last axes of `image` by one matrix each: float64."""
    result = image.astype(np.float64)
    *others, along_last = matrices
    for axis, matrix in enumerate(others, start=image.ndim - len(matrices)):
        head, tail = result.shape[:axis], result.shape[axis + 1 :]
        columns = result.reshape(*result.shape[: axis + 1], math.prod(tail))
        result = (matrix @ columns).reshape(*head, len(matrix), *tail)
    return result @ along_last.T


def downsample(hr, scale, kernel="bicubic"):
    """Make the low-resolution image of `hr`.

    hr: [s*H, s*W] or [s*D, s*H, s*W] uint8 or uint16, s = scale; returns [H, W] or [D, H, W] of the same
    dtype, rounded half up once.
    """
    return _rounded(resize(hr, _lr_shape(hr, scale), kernel), hr.dtype)


def _lr_shape(hr, scale):
    if any(size % scale for size in hr.shape):
        size = "x".join(map(str, hr.shape))
        raise ValueError(f"an image of {size} pixels is not a multiple of scale={scale}")
    return [size // scale for size in hr.shape]


def _rounded(image, dtype):
    return np.clip(np.floor(image + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def upsample(lr, scale, kernel="bicubic", ndim=2):
    """Enlarge the last `ndim` axes of `lr` to float64 in the same grey levels: the baseline of all scores.

    lr: [..., H, W] -> [..., s*H, s*W], or with ndim=3 [..., D, H, W] -> [..., s*D, s*H, s*W].
    """
    return resize(lr, [size * scale for size in lr.shape[-ndim:]], kernel)


def draw_kernel(kind, seed, key):
    """Name the kernel of one image: bicubic for kind "default", one of UNKNOWN_KERNELS for "unknown".

    The draw depends on (seed, key) alone, so it does not matter in which order or by whom images are made.
    """
    if kind == "default":
        return "bicubic"
    if kind == "unknown":
        return UNKNOWN_KERNELS[_digest(seed, key) % len(UNKNOWN_KERNELS)]
    raise ValueError(f"kind={kind!r} is not known; use default or unknown")


@dataclass(frozen=True)
class ScanLike:
    """How a scanner with larger voxels sees a rock: lr = gain * (hr blurred) + offset + noise."""

    blur_sigma: float  # HR voxels: of the Gaussian point spread, the average over an LR voxel included
    noise_sigma: float = 0.0  # grey levels; white
    gain: float = 1.0  # about grey level 0
    offset: float = 0.0  # grey levels


def blur(hr, scale, sigma, shift=None):
    """Blur HR by a Gaussian of `sigma` HR voxels and sample it at the centres of LR voxels, plus `shift`.

    hr: [s*H, s*W] or [s*D, s*H, s*W]; returns [H, W] or [D, H, W] float64. The Gaussian is evaluated at its
    distance to each HR voxel, so that even scales and shifts (HR voxels per axis) need no interpolation.
    Borders are mirrored.
    """
    shift = [0.0] * hr.ndim if shift is None else shift
    shapes = zip(hr.shape, _lr_shape(hr, scale), shift, strict=True)
    return _apply([_gaussian_weights(*each, sigma) for each in shapes], hr)


def _gaussian_weights(size_in, size_out, shift, sigma):
    """Return the matrix [size_out, size_in] that blurs and samples one axis; it reaches to 4 sigma."""
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5 + shift
    reach = math.ceil(4 * sigma)
    taps = np.floor(centres)[:, None] + np.arange(-reach, reach + 2)
    return _mirrored(np.exp(-0.5 * ((centres[:, None] - taps) / sigma) ** 2), taps, size_in)


def scan_like(hr, scale, scanner, seed, key):
    """Make the LR image of `hr` as a scanner does: see ScanLike and `blur`.

    hr: [s*H, s*W] or [s*D, s*H, s*W] uint8 or uint16; returns [H, W] or [D, H, W] of the same dtype, rounded
    half up once and clipped to the range of the type. The noise depends on (seed, key) alone. Memory: 8 bytes
    per HR voxel and more, so large volumes are degraded block by block, each with its surroundings.
    """
    lr = scanner.gain * blur(hr, scale, scanner.blur_sigma) + scanner.offset
    lr += np.random.default_rng(_digest(seed, key)).normal(0, scanner.noise_sigma, lr.shape)
    return _rounded(lr, hr.dtype)


def _digest(seed, key):
    """Return 64 bits that depend on both."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big")
