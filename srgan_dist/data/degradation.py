"""MATLAB-exact image resizing: how DeepRock-SR made its low-resolution side, and the bicubic baseline.

The rules of MATLAB's `imresize`: pixel centres are at half-integers; the kernel is widened by the scale when
shrinking (antialiasing) and not when enlarging; weights are normalised; borders are mirrored; one pass per
axis, all in float, and the result is rounded once. Kernels of other libraries differ in one of these points.
"""

import hashlib
import math
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
    weights /= weights.sum(axis=1, keepdims=True)

    mirrored = np.mod(taps, 2 * size_in)
    mirrored = np.where(mirrored < size_in, mirrored, 2 * size_in - 1 - mirrored).astype(int)
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], mirrored), weights)
    matrix.flags.writeable = False  # shared by every caller through the cache
    return matrix


def resize(image, shape, kernel):
    """Resize the last len(shape) axes of `image` to `shape`: float64, neither rounded nor clipped."""
    resized = image.astype(np.float64)
    first, last = image.ndim - len(shape), image.ndim - 1
    for axis, size in enumerate(shape[:-1], start=first):
        weights = weights_of_axis(image.shape[axis], size, kernel)
        head, tail = resized.shape[:axis], resized.shape[axis + 1 :]
        columns = resized.reshape(*resized.shape[: axis + 1], math.prod(tail))
        resized = (weights @ columns).reshape(*head, size, *tail)
    return resized @ weights_of_axis(image.shape[last], shape[-1], kernel).T


def downsample(hr, scale, kernel="bicubic"):
    """Make the low-resolution image of `hr`.

    hr: [s*H, s*W] or [s*D, s*H, s*W] uint8 or uint16, s = scale; returns [H, W] or [D, H, W] of the same
    dtype, rounded half up once.
    """
    if any(size % scale for size in hr.shape):
        size = "x".join(map(str, hr.shape))
        raise ValueError(f"an image of {size} pixels is not a multiple of scale={scale}")
    lr = resize(hr, [size // scale for size in hr.shape], kernel)
    return np.clip(np.floor(lr + 0.5), 0, np.iinfo(hr.dtype).max).astype(hr.dtype)


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
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        return UNKNOWN_KERNELS[int.from_bytes(digest[:8], "big") % len(UNKNOWN_KERNELS)]
    raise ValueError(f"kind={kind!r} is not known; use default or unknown")
