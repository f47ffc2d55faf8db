"""The imaging of a scene by a micro-CT scanner: blur, noise, ring artefacts and beam hardening."""

import math

import numpy as np

from srgan_dist.datasets.synthetic.textures import window

# Standard deviation in pixels of the point spread. With it HR of sandstone and carbonate stands 13 to 21 dB
# above the noise of rounding to 8 bits at the finest checkerboard; real slices of both do by 15 to 23 dB
BLUR = 0.62


def _gaussian(sigma):
    """Return the weights of a one-dimensional Gaussian filter."""
    reach = math.ceil(3.5 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _blur(image, weights):
    """Filter rows and columns, with mirrored borders."""
    reach = len(weights) // 2
    for _ in range(2):
        padded = np.pad(image, ((reach, reach), (0, 0)), mode="symmetric")
        image = sum(weight * padded[k : k + len(image)] for k, weight in enumerate(weights)).T
    return image


def scan(rng, scene, noise, rings):
    """Image a scene as a scanner does, into uint8 [size, size].

    One Gaussian blurs the edges and correlates the noise: in real slices the noise spectrum falls like a
    Gaussian too. noise, rings: standard deviations of the noise after the blur and of the ring artefacts
    before it, in grey levels. The rotation axis may be outside the slice.
    """
    size = len(scene)
    weights = _gaussian(BLUR)
    white = rng.standard_normal((size, size), dtype=np.float32) * (noise / float(np.sum(weights**2)))
    _, y, x = window(size, *rng.uniform(-0.5 * size, 1.5 * size, 2).tolist(), 3 * size)
    radius = np.hypot(y, x)
    detector = rings * rng.standard_normal(3 * size) * rng.gamma(0.5, 1.15, 3 * size)  # few are strong
    image = _blur(scene + white + detector.astype(np.float32)[radius.astype(int)], weights)
    image *= 1 + 0.04 * np.clip((radius / size) ** 2 - 0.5, -0.5, 1)  # beam hardening: darker near the axis
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
