"""Synthetic coal: beds of macerals that are cracked by cleats."""

import math

import numpy as np

from srgan_dist.datasets.synthetic.scanner import scan
from srgan_dist.datasets.synthetic.textures import blend, coverage, crystals, rotate, smooth_field, window


def _draw_cleat(rng, canvas, start, angle, length, width):
    """Raise `canvas` [size, size] to the share that a crack covers: wavy, uneven, closed at its ends."""
    # Centre line and width along the crack
    size = len(canvas)
    direction = np.array([math.sin(angle), math.cos(angle)])
    axis = int(np.abs(direction).argmax())  # one step along this axis of the image per point of the crack
    slant = abs(direction[axis])
    steps = np.arange(int(length * slant) + 4)
    knots = np.arange(0, len(steps) + 9, 9)
    wander = np.interp(steps, knots, np.cumsum(rng.normal(0, 0.9, len(knots))))
    half_width = width / 2 * np.interp(steps, knots, rng.uniform(0.4, 1.5, len(knots)))
    half_width *= np.sqrt(np.sin(np.pi * (steps + 1) / (len(steps) + 1)))

    # Covered share of the pixels around the centre line
    centre = start[1 - axis] + steps * direction[1 - axis] / slant + wander
    across = np.rint(centre)[:, None] + np.arange(-math.ceil(width) - 2, math.ceil(width) + 3)
    along = np.broadcast_to((np.rint(start[axis]) + steps * np.sign(direction[axis]))[:, None], across.shape)
    share = coverage(np.abs(across - centre[:, None]) * slant - half_width[:, None])
    share *= np.minimum(1, 2 * half_width)[:, None]  # a crack thinner than a pixel darkens it in part

    # Into the canvas, as far as they are inside
    seen = (along >= 0) & (along < size) & (across >= 0) & (across < size)
    pixels = (along, across) if axis == 0 else (across, along)
    pixels = tuple(coordinate[seen].astype(int) for coordinate in pixels)
    canvas[pixels] = np.maximum(canvas[pixels], share[seen])


def _cleats(rng, size, bedding):
    """Draw face cleats across the bedding, and butt cleats from one to the next.

    Returns the share of each pixel that open and mineralised cleats cover, each [size, size].
    """
    open_cleats, filled_cleats = np.zeros((2, size, size), np.float32)
    face = bedding + np.pi / 2 + rng.uniform(-0.5, 0.5)
    butt = face + np.pi / 2 + rng.uniform(-0.25, 0.25)
    along, across = np.array([[math.sin(face), math.cos(face)], [math.cos(face), -math.sin(face)]])
    spacing, mineralised = rng.uniform(70, 180), rng.uniform(0, 0.6)
    offset = -0.8 * size
    while offset < 0.8 * size:
        step = spacing * rng.gamma(3, 1 / 3)
        start = size / 2 + across * offset + along * rng.uniform(-0.75, 0.2) * size
        length, width = rng.uniform(0.3, 1.5) * size, rng.lognormal(0.5, 0.5)
        canvas = filled_cleats if rng.random() < mineralised else open_cleats
        _draw_cleat(rng, canvas, start, face + rng.normal(0, 0.05), length, width)
        for _ in range(rng.poisson(length / spacing)):
            canvas = filled_cleats if rng.random() < mineralised else open_cleats
            corner = start + along * rng.uniform(0.05, 0.95) * length
            angle = butt + np.pi * rng.integers(2) + rng.normal(0, 0.12)
            _draw_cleat(rng, canvas, corner, angle, step * rng.uniform(0.5, 1), width * rng.uniform(0.3, 0.9))
        offset += step
    return open_cleats, filled_cleats


def maceral_bands(rng, size, count, height, fade):
    """Return the grey levels of bands across `height`, of its shape, that `fade` (0 to 1) in places."""
    edges = np.sort(rng.uniform(-1.2 * size, 1.2 * size, count))
    levels = rng.choice([86, 92, 98, 110], len(edges), p=[0.3, 0.3, 0.25, 0.15])
    levels = (levels + rng.normal(0, 3, len(edges))).astype(np.float32)
    return blend(levels[np.searchsorted(edges, height) - 1], 94, fade)


def _draw_lenses(rng, scene, bedding, fine):
    """Draw lenses along the bedding: dark liptinite, and bright inertinite, cellular where it is thick."""
    size = len(scene)
    _, gap, _ = crystals(rng, size, 4)
    for _ in range(rng.poisson(25 * (size / 500) ** 2)):
        length, thickness = rng.lognormal(2.8, 0.7), rng.lognormal(0.6, 0.6)
        region, y, x = window(size, *rng.uniform(0, size, 2).tolist(), 1.3 * length)
        along, across = rotate(y, x, bedding + rng.normal(0, 0.06))
        distance = (np.hypot(along / length, across / thickness) - 1) * thickness + 0.4 * fine[region]
        grey = float(rng.choice([66, 122, 140]))
        if thickness > 3 and grey > 100:
            grey = blend(grey, 78, np.clip(gap[region] - 1, 0, 1))
        scene[region] = blend(scene[region], grey, coverage(distance))


def _draw_pyrite(rng, scene):
    """Draw small bright specks."""
    size = len(scene)
    for _ in range(rng.poisson(16 * (size / 500) ** 2)):
        radius = rng.lognormal(0.2, 0.5)
        region, y, x = window(size, *rng.uniform(0, size, 2).tolist(), radius + 2)
        scene[region] = blend(scene[region], rng.uniform(150, 245), coverage(np.hypot(y, x) - radius))


def draw_coal(rng, size):
    """Bands and lenses of macerals, seams and specks of minerals, and two sets of cleats."""
    fine = smooth_field(rng, size, 2.5, 10)
    patch = smooth_field(rng, size, 10, 120)
    bend = smooth_field(rng, size, 150, 500)
    swelling = smooth_field(rng, size, 15, 150)
    bedding = rng.uniform(0, np.pi)
    _, y, x = window(size, size / 2, size / 2, size)
    height = rotate(y, x, bedding)[1] + 6 * bend + 1.5 * patch

    scene = maceral_bands(rng, size, size // 8, height, np.clip(0.3 + 0.3 * swelling, 0, 1)) + 1.5 * patch
    _draw_lenses(rng, scene, bedding, fine)
    for _ in range(rng.poisson(size / 250)):  # mineral seams, pinching out and swelling
        middle, thickness = rng.uniform(-0.6, 0.6) * size, rng.uniform(1, 3.5)
        seam = coverage(np.abs(height - middle) - thickness - 1.5 * swelling + 0.6 * fine)
        scene = blend(scene, 172 + 14 * fine, seam)
    open_cleats, filled_cleats = _cleats(rng, size, bedding)
    scene = blend(scene, 188 + 12 * fine, filled_cleats * np.clip(1.2 + patch, 0, 1))
    scene = blend(scene, 24, open_cleats)
    _draw_pyrite(rng, scene)
    return scan(rng, scene, noise=1.7, rings=0.25)
