"""Synthetic coal: beds of macerals that are cracked by cleats."""

import numpy as np

from srgan_dist.datasets.synthetic.coal import maceral_bands
from srgan_dist.datasets.synthetic.textures import blend, coverage
from srgan_dist.datasets.synthetic.volumes.scanner import scan
from srgan_dist.datasets.synthetic.volumes.shapes import height, smooth_field, window

CLEAT, MINERAL = 24, 188


def _frame(rng):
    """Return three orthogonal directions: across the bedding, across face cleats and across butt cleats."""
    return np.linalg.qr(rng.standard_normal((3, 3)))[0].T.astype(np.float32)


def _draw_lenses(rng, scene, bedding, fine):
    """Draw lenses along the bedding: dark liptinite and bright inertinite, cellular where it is thick."""
    size = len(scene)
    for _ in range(rng.poisson(90 * (size / 128) ** 3)):
        length, thickness = rng.lognormal(2.4, 0.5), rng.lognormal(0.6, 0.5)
        region, axes = window(size, rng.uniform(0, size, 3).tolist(), 1.2 * length + thickness)
        across = height(axes, bedding)
        along = np.sqrt(np.maximum(sum(axis**2 for axis in axes) - across**2, 0))
        distance = (np.hypot(along / length, across / thickness) - 1) * thickness + 0.4 * fine[region]
        grey = float(rng.choice([68, 120, 138]))
        if thickness > 2.5 and grey > 100:
            grey = blend(grey, 78, np.clip(1.5 * fine[region] - 0.5, 0, 1))
        scene[region] = blend(scene[region], grey, coverage(distance))


def _cleats(rng, size, frame, wander, swelling):
    """Draw face cleats through the bedding, and butt cleats from one to the next.

    Returns the share of each voxel that open and mineralised cleats cover, each [size, size, size].
    """
    shares = np.zeros((2, size, size, size), np.float32)
    axes = np.ix_(*[np.arange(size, dtype=np.float32) - size / 2] * 3)
    up, across, along = (height(axes, direction) for direction in frame)
    across = across + wander
    mineralised, spacing = rng.uniform(0, 0.6), rng.uniform(25, 55)
    steps = 4 + spacing * rng.gamma(3, 1 / 3, 2 + int(2.2 * size / spacing))
    faces = np.cumsum(steps) - 1.1 * size
    for face, step in zip(faces.tolist(), steps.tolist()):
        tilted = across - face + rng.normal(0, 0.05) * up + rng.normal(0, 0.05) * along
        _crack(rng, shares, mineralised, tilted, (up, along), rng.uniform(0.3, 1) * size, swelling)
        between = coverage(np.abs(across - face + step / 2) - step / 2)  # of this cleat and the one before
        for offset in rng.uniform(-0.9 * size, 0.9 * size, rng.poisson(1.2 * size / spacing)):
            turned = along - offset + rng.normal(0, 0.12) * across + rng.normal(0, 0.05) * up + 0.6 * wander
            plane = up, across - face
            _crack(rng, shares, mineralised, turned, plane, rng.uniform(0.15, 0.5) * size, swelling, between)
    return shares


def _crack(rng, shares, mineralised, position, plane, radius, swelling, inside=None):
    """Raise a share by a crack where `position` is 0: uneven, and closing towards the rim of a disc.

    plane: two coordinates along the crack; inside: a share that limits it, or None.
    """
    size = len(position)
    share = shares[int(rng.random() < mineralised)].ravel()
    near = np.flatnonzero(np.abs(position) < 5)
    squared = sum(
        (axis.ravel()[near] - middle) ** 2 for axis, middle in zip(plane, rng.uniform(-0.5, 0.5, 2) * size)
    )
    taper = np.sqrt(np.clip(1 - squared / radius**2, 0, 1))
    half_width = (
        min(rng.lognormal(-0.3, 0.5), 2.5) * taper * np.clip(1 + 0.35 * swelling.ravel()[near], 0.1, 2)
    )
    covered = coverage(np.abs(position.ravel()[near]) - half_width) * np.minimum(1, 2 * half_width)
    if inside is not None:
        covered *= inside.ravel()[near]
    share[near] = np.maximum(share[near], covered)


def _draw_pyrite(rng, scene):
    """Draw small bright specks."""
    size = len(scene)
    for _ in range(rng.poisson(40 * (size / 128) ** 3)):
        radius = rng.lognormal(0.2, 0.5)
        region, axes = window(size, rng.uniform(0, size, 3).tolist(), radius + 2)
        distance = np.sqrt(sum(axis**2 for axis in axes)) - radius
        scene[region] = blend(scene[region], rng.uniform(150, 245), coverage(distance))


def draw_coal(rng, size):
    """Bands and lenses of macerals, seams and specks of minerals, and two sets of cleats."""
    fine, patch = smooth_field(rng, size, 2.5, 10), smooth_field(rng, size, 10, 100)
    bend, swelling = smooth_field(rng, size, 60, 200), smooth_field(rng, size, 12, 100)
    frame = _frame(rng)
    axes = np.ix_(*[np.arange(size, dtype=np.float32) - size / 2] * 3)
    level = height(axes, frame[0]) + 4 * bend + 1.5 * patch

    scene = (
        maceral_bands(rng, size, size // 3, level, np.clip(0.3 + 0.3 * swelling, 0, 1)) + 1.5 * patch + fine
    )
    _draw_lenses(rng, scene, frame[0], fine)
    for _ in range(rng.poisson(0.7)):  # mineral seams, pinching out and swelling
        middle, thickness = rng.uniform(-0.6, 0.6) * size, rng.uniform(0.5, 2.5)
        seam = coverage(np.abs(level - middle) - thickness - 1.5 * swelling + 0.6 * fine)
        scene = blend(scene, 172 + 14 * fine, seam)
    wander = smooth_field(rng, size, 15, 90)
    open_cleats, filled_cleats = _cleats(rng, size, frame, 1.2 * wander, swelling)
    scene = blend(scene, MINERAL + 12 * fine, filled_cleats * np.clip(1.2 + patch, 0, 1))
    scene = blend(scene, CLEAT, open_cleats)
    _draw_pyrite(rng, scene)
    return scan(rng, scene, blur=0.95, noise=2.5, rings=0.4, fringe=rng.uniform(0.3, 0.8))
