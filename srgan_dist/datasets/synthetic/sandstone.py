"""Synthetic sandstone: grains that are packed, welded and partly dissolved, with clay in some pores."""

import math

import numpy as np

from srgan_dist.datasets.synthetic.scanner import scan
from srgan_dist.datasets.synthetic.textures import (
    blend,
    coverage,
    crystals,
    pack_discs,
    polygon,
    rotate,
    smooth_field,
    window,
)

# Textures of grains: (rng, grey [h, w], coordinates y [h, 1] and x [w], textures [5, h, w]) -> grey [h, w].
# textures: clay (grey levels), fine, rough, patch, crystal, as _draw_textures returns them.


def _cleaved(rng, grey, y, x, textures):
    """Feldspar dissolved along its cleavage."""
    _, fine, rough, patch, _ = textures
    along, _ = rotate(y, x, rng.uniform(0, np.pi))
    lamellae = np.sin(along * (2 * math.pi / rng.uniform(4, 8)) + 0.8 * rough)
    return np.where(lamellae + 0.4 * fine + 0.9 * rough + patch > rng.uniform(1, 2), 55, grey + 4 * lamellae)


def _dissolved(rng, grey, y, x, textures):
    """Feldspar dissolved along a network of fractures."""
    _, fine, rough, patch, _ = textures
    return np.where(np.abs(rough + 0.3 * fine) < rng.uniform(0.15, 0.4) * (0.6 + patch), 52, grey + 5 * rough)


def _lithic(rng, grey, y, x, textures):
    """A rock fragment: crystals of several minerals, some very bright, with pores."""
    _, fine, rough, _, crystal = textures
    fragment = grey + 8 * crystal + 8 * rough
    fragment = np.where(crystal + rough > rng.uniform(2.2, 3.4), 175 + 15 * fine, fragment)
    return np.where(rough < -rng.uniform(1, 2), 58, fragment)


def _clay(rng, grey, y, x, textures):
    """A grain altered to clay: flakes with pores between them."""
    return textures[0]


# mineral -> (share of the grains, grey level, its spread, texture or None)
MINERALS = {
    "quartz": (0.70, 118, 2, None),
    "feldspar": (0.10, 136, 4, None),
    "cleaved feldspar": (0.05, 134, 3, _cleaved),
    "dissolved feldspar": (0.05, 130, 3, _dissolved),
    "rock fragment": (0.05, 122, 3, _lithic),
    "clay": (0.05, 80, 0, _clay),
}


def _weld(rng, size, discs):
    """Turn discs into angular grains and weld them where they overlap.

    Returns the distance to the nearest grain (negative inside), the distance to its contact with the second
    nearest, and the numbers of both grains; all [size, size].
    """
    nearest, second = np.full((2, size, size), 99, np.float32)
    owner, neighbour = np.zeros((2, size, size), np.int32)
    for number, (row, column, radius) in enumerate(discs.tolist()):
        region, y, x = window(size, row, column, 1.8 * radius)
        distance = polygon(rng, y, x, radius)
        first = distance < nearest[region]
        runner_up = ~first & (distance < second[region])
        neighbour[region] = np.where(first, owner[region], np.where(runner_up, number, neighbour[region]))
        owner[region] = np.where(first, number, owner[region])
        second[region] = np.minimum(second[region], np.maximum(nearest[region], distance))
        nearest[region] = np.minimum(nearest[region], distance)
    return nearest, (second - nearest) / 2, owner, neighbour


def _mineral_greys(rng, size, discs, owner, textures):
    """Give each grain a mineral and return the grey levels of all grains [size, size]."""
    shares, levels, spreads, paints = zip(*MINERALS.values())
    kinds = rng.choice(len(MINERALS), len(discs), p=shares)
    greys = rng.normal(np.array(levels)[kinds], np.array(spreads)[kinds])
    heavy = (discs[:, 2] < 12) & (rng.random(len(discs)) < 0.3)  # zircon, pyrite: small and dense
    greys = np.where(heavy, rng.uniform(170, 240, len(discs)), greys).astype(np.float32)[owner]
    for number, (row, column, radius) in enumerate(discs.tolist()):
        paint = paints[kinds[number]]
        if paint and not heavy[number]:
            region, y, x = window(size, row, column, 1.8 * radius)
            painted = paint(rng, greys[region], y, x, textures[:, *region])
            greys[region] = np.where(owner[region] == number, painted, greys[region])
    return greys


def _draw_textures(rng, size):
    """Draw the textures that grains are painted with, [5, size, size]."""
    fine = smooth_field(rng, size, 2.5, 9)
    rough = smooth_field(rng, size, 3, 40)
    patch = smooth_field(rng, size, 16, 120)
    flake, gap, seeds = crystals(rng, size, 5)
    crystal = rng.standard_normal(len(seeds), dtype=np.float32)[flake] + 0.6 * rough
    clay = 58 + (38 + 18 * crystal + 14 * rough + 8 * fine) * np.clip(gap + 0.6 * rough, 0, 1)
    return np.stack([np.clip(clay, 40, 145), fine, rough, patch, crystal])


def _open_contacts(rng, outline, contact, owner, neighbour, rough):
    """Return the share of open contacts between grains [size, size]; they narrow away from the pores."""
    count = max(owner.max(), neighbour.max()) + 1
    half_width = rng.uniform(-3.5, 1.1, (count, count)).astype(np.float32)  # below zero: welded
    half_width = np.maximum(half_width, half_width.T)[owner, neighbour] + 0.025 * outline + 0.35 * rough
    return coverage(contact - half_width) * (half_width > 0)


def draw_sandstone(rng, size):
    """Angular welded grains of several minerals around connected pores, some of them filled with clay."""
    mean_radius = rng.uniform(17, 28)
    count = int(3 * (size / mean_radius + 2) ** 2 / np.pi) + 10
    radii = mean_radius * rng.lognormal(0, 0.5, count)
    discs = pack_discs(rng, size, np.clip(radii, 4, 2.4 * mean_radius), 0.68)
    outline, contact, owner, neighbour = _weld(rng, size, discs)

    textures = _draw_textures(rng, size)
    clay, _, rough, patch, _ = textures
    outline += 0.7 * rough + 1.5 * patch
    outline -= np.quantile(outline, 1 - rng.uniform(0.13, 0.22))  # sets the porosity
    clayey = np.clip(3 * smooth_field(rng, size, 20, 120) + 0.7 * rough - 2.2, 0, 1)
    pores = blend(42 + 2 * patch, clay, clayey)
    grains = _mineral_greys(rng, size, discs, owner, textures)
    grains = blend(grains, 50, _open_contacts(rng, outline, contact, owner, neighbour, rough))
    return scan(rng, blend(pores, grains, coverage(outline)), noise=5.5, rings=0.7)
