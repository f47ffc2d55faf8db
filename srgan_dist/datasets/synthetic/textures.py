"""Shapes, random fields and crystals that synthetic rocks are drawn with.

Scenes are [size, size] in the grey levels of an 8-bit image (0 to 255); lengths are pixels, angles radians.
"""

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def _equal_octaves(size, finest, coarsest):
    """Return a spectrum [size, size // 2 + 1] of equal power per octave between two periods."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1 / size
    band = np.exp(-((frequency * finest) ** 4) - (frequency * coarsest) ** -4.0) / frequency
    return band.astype(np.float32)


def smooth_field(rng, size, finest, coarsest):
    """Draw a smooth random field of unit variance whose features are `finest` to `coarsest` pixels wide."""
    white = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    field = np.fft.irfft2(white * _equal_octaves(size, finest, coarsest), s=(size, size)).astype(np.float32)
    return field / field.std()


def window(size, row, column, reach):
    """Return two slices that cut out the surroundings of a point, and the coordinates y [h, 1], x [w]."""
    regions, axes = [], []
    for centre in (row, column):
        region = slice(max(0, int(centre - reach)), max(0, min(size, int(centre + reach) + 2)))
        regions.append(region)
        axes.append((np.arange(region.start, region.stop) - centre).astype(np.float32))
    return tuple(regions), axes[0][:, None], axes[1]


def rotate(y, x, angle):
    """Return the coordinates along and across a direction."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def coverage(distance):
    """Turn the signed distance to an outline (negative inside) into the covered share of each pixel."""
    return np.clip(0.5 - distance, 0, 1)


def blend(scene, grey, share):
    """Replace a share (0 to 1) of each pixel."""
    return scene + (grey - scene) * share


def pack_discs(rng, size, radii, spacing):
    """Place discs at random, large ones first, overlapping if `spacing` < 1; returns rows of y, x, radius."""
    discs = np.zeros((0, 3))
    for radius in np.sort(radii)[::-1]:
        centres = rng.uniform(-radius, size + radius, (25, 2))
        distances = np.hypot(centres[:, :1] - discs[:, 0], centres[:, 1:] - discs[:, 1])
        free = np.all(distances > spacing * (discs[:, 2] + radius), axis=1)
        if free.any():
            discs = np.vstack([discs, [*centres[free.argmax()], radius]])
    return discs


def polygon(rng, y, x, radius):
    """Return the distance to a polygon, rounded by a 12-norm over its faces instead of the maximum."""
    faces = int(rng.integers(4, 9))
    angles = (np.arange(faces) + rng.uniform(-0.3, 0.3, faces)) * (2 * np.pi / faces) + rng.uniform(0, np.pi)
    axis, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.9) ** 0.5
    lengthwise = np.abs(np.cos(angles - axis)) > 0.7
    heights = radius * rng.uniform(0.75, 1.1, faces) * np.where(lengthwise, stretch, 1 / stretch)
    total = np.zeros((len(y), len(x)), np.float32)
    for angle, height in zip(angles.tolist(), heights.tolist()):
        squared = np.maximum(rotate(y, x, angle)[0] / height, 0) ** 2
        total += squared**2 * squared**2 * squared**2
    return (total ** (1 / 12) - 1) * radius


def ellipse(rng, y, x, radius):
    """Return the distance to a slightly bent ellipse."""
    along, across = rotate(y, x, rng.uniform(0, np.pi))
    stretch, bend = rng.uniform(1, 1.7) ** 0.5, rng.uniform(-0.25, 0.25) / radius
    along = along / stretch
    return np.hypot(along, across * stretch + bend * (along**2 - radius**2 / 3)) - radius


def shell_distance(rng, y, x, length, thickness):
    """Return the distance to a shell: a bent band of these half sizes that thins towards its ends."""
    along, across = rotate(y, x, rng.uniform(0, np.pi))
    bend = rng.normal(0, 0.3) / length
    across = (across + bend * (along**2 - length**2 / 3)) / np.sqrt(1 + (2 * bend * along) ** 2)
    thickness = thickness * np.clip(1 - rng.uniform(0, 0.6) * (along / length) ** 2, 0.2, 1)
    return np.hypot(np.maximum(np.abs(along) - length, 0), across) - thickness


def crystals(rng, size, cell):
    """Fill the image with crystals, the Voronoi cells of one random seed in every cell x cell square.

    Returns for each pixel the number of its crystal and the width of a gap between crystals that would just
    reach it, both [size, size], and for each crystal the flat index of the pixel at its seed.
    """
    count = -(-size // cell)
    numbers = np.arange((count + 2) ** 2, dtype=np.int32).reshape(count + 2, count + 2)
    seeds = rng.random((2, count + 2, count + 2), dtype=np.float32) * cell
    pixels = np.arange(cell, dtype=np.float32) + 0.5
    # Axes [cell, cell, count, count]: the long ones last, where numpy is fast.
    nearest = np.full((cell, cell, count, count), np.inf, np.float32)
    second, owner = nearest.copy(), np.zeros(nearest.shape, np.int32)
    for i in range(3):
        for j in range(3):
            tile = slice(i, i + count), slice(j, j + count)
            dy = seeds[0][tile] + (i - 1) * cell - pixels[:, None, None, None]
            dx = seeds[1][tile] + (j - 1) * cell - pixels[:, None, None]
            distance = dy * dy + dx * dx
            np.copyto(owner, numbers[tile], where=distance < nearest)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    gap = np.sqrt(second) - np.sqrt(nearest)
    owner, gap = (a.transpose(2, 0, 3, 1).reshape(count * cell, -1)[:size, :size] for a in (owner, gap))
    corners = np.mgrid[-1 : count + 1, -1 : count + 1] * cell
    rows, columns = (seeds + corners).clip(0, size - 1).astype(int)
    return owner, gap, (rows * size + columns).ravel()
