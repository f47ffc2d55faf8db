"""The imaging of a volume by a micro-CT scanner."""

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d


def scan(rng, scene, blur, noise, rings, fringe):
    """Image a scene [size, size, size] as a scanner does, into uint8 of the same shape.

    blur: standard deviation of the point spread in voxels, which also correlates the noise; fringe: contrast
    of the bright and dark lines along edges that phase contrast leaves; noise, rings: standard deviations in
    grey levels. Rings lie around one axis along z, often outside of the volume, and last for a few slices.
    """
    size = len(scene)
    row, column = rng.uniform(-0.5 * size, 1.5 * size, 2)
    y, x = np.ogrid[:size, :size]
    radius = np.hypot(y - row, x - column)
    image = _imaged(scene, blur, fringe)
    grain = _imaged(rng.standard_normal(scene.shape, dtype=np.float32), blur, fringe)
    image += grain * np.float32(noise / grain.std())
    image += _detector(rng, size, rings)[:, radius.astype(int)]
    image *= 1 + 0.04 * np.clip((radius / size) ** 2 - 0.5, -0.5, 1)  # beam hardening: darker near the axis
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def _imaged(scene, blur, fringe):
    image = gaussian_filter(scene, blur, truncate=3.5)
    return image + fringe * (image - gaussian_filter(image, 1.7, truncate=3))


def _detector(rng, size, rings):
    """Return the faults of detector rows and columns [size, 3 * size]: rings by slice and radius."""
    strength = rings * rng.gamma(0.5, 1.15, 3 * size)  # few are strong
    faults = gaussian_filter1d(rng.standard_normal((size, 3 * size)), 8, axis=0)
    faults = gaussian_filter1d(faults * strength / faults.std(), 0.6, axis=1)
    return faults.astype(np.float32)
