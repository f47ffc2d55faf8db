"""Synthetic sandstone: grains of several minerals that are packed and welded, with clay in some pores."""

import numpy as np

from srgan_dist.datasets.synthetic.textures import blend, coverage
from srgan_dist.datasets.synthetic.volumes.scanner import scan
from srgan_dist.datasets.synthetic.volumes.shapes import (
    LONGEST,
    directions,
    height,
    pack_spheres,
    polyhedron,
    smooth_field,
    window,
)

PORE = 56


def _cleaved(rng, grey, axes, fine, rough):
    """Feldspar dissolved along its cleavage."""
    lamellae = np.sin(height(axes, directions(rng, 1)[0]) * (2 * np.pi / rng.uniform(5, 9)) + 0.7 * rough)
    return blend(
        grey, PORE, np.clip(2 * (0.8 * lamellae + 0.4 * fine + 0.9 * rough - rng.uniform(1, 1.8)), 0, 1)
    )


def _dissolved(rng, grey, axes, fine, rough):
    """Feldspar dissolved along a network of fractures."""
    return blend(grey, PORE, coverage(3 * (np.abs(rough + 0.2 * fine) - rng.uniform(0.1, 0.35))))


def _fragment(rng, grey, axes, fine, rough):
    """A rock fragment: crystals of several minerals, some very bright, with pores."""
    grey = grey + 7 * fine + 7 * rough
    bright = np.clip(4 * (fine + rough - rng.uniform(1.9, 3)), 0, 1)
    return blend(blend(grey, 195, bright), PORE, np.clip(3 * (-rough - rng.uniform(1, 1.8)), 0, 1))


def _clay(rng, grey, axes, fine, rough):
    """A grain altered to clay, with pores between its flakes."""
    return 98 + 13 * fine + 10 * rough


# mineral -> (share of the grains, grey level, its spread, texture or None)
MINERALS = {
    "quartz": (0.74, 138, 1.5, None),
    "feldspar": (0.10, 152, 3, None),
    "cleaved feldspar": (0.04, 150, 3, _cleaved),
    "dissolved feldspar": (0.04, 148, 3, _dissolved),
    "rock fragment": (0.05, 140, 3, _fragment),
    "clay": (0.03, 100, 0, _clay),
}


def _weld(rng, size, spheres):
    """Turn spheres into angular grains and weld them where they overlap.

    Returns the distance to the nearest grain (negative inside), the distance to its contact with the second
    nearest, and the numbers of both grains; all [size, size, size].
    """
    nearest, second = np.full((2, size, size, size), 99, np.float32)
    owner, neighbour = np.zeros((2, size, size, size), np.int32)
    for number, (*centre, radius) in enumerate(spheres.tolist()):
        region, axes = window(size, centre, LONGEST * radius + 8)
        distance = polyhedron(rng, axes, radius, int(rng.integers(5, 9)))
        before, runner_up = nearest[region], second[region]
        first, next_to = distance < before, (distance < runner_up) & (distance >= before)
        np.copyto(neighbour[region], owner[region], where=first)
        np.copyto(neighbour[region], number, where=next_to)
        np.copyto(owner[region], number, where=first)
        np.copyto(runner_up, np.minimum(runner_up, np.maximum(before, distance)))
        np.copyto(before, np.minimum(before, distance))
    return nearest, (second - nearest) / 2, owner, neighbour


def _mineral_greys(rng, size, spheres, owner, textures):
    """Give each grain a mineral and return the grey levels of all grains [size, size, size]."""
    shares, levels, spreads, paints = zip(*MINERALS.values())
    kinds = rng.choice(len(MINERALS), len(spheres), p=shares)
    greys = rng.normal(np.array(levels)[kinds], np.array(spreads)[kinds])
    heavy = (spheres[:, 3] < 9) & (rng.random(len(spheres)) < 0.3)  # zircon, rutile: small and dense
    greys = np.where(heavy, rng.uniform(180, 235, len(spheres)), greys).astype(np.float32)[owner]
    for number, (*centre, radius) in enumerate(spheres.tolist()):
        if (paint := paints[kinds[number]]) and not heavy[number]:
            region, axes = window(size, centre, LONGEST * radius + 8)
            painted = paint(rng, greys[region], axes, *(texture[region] for texture in textures))
            np.copyto(greys[region], painted, where=owner[region] == number)
    return greys


def draw_sandstone(rng, size):
    """Angular welded grains of several minerals around connected pores, some of them filled with clay."""
    mean_radius = rng.uniform(15, 22)
    count = int(4 * (size / mean_radius + 2) ** 3 / 4.2) + 20
    radii = np.clip(mean_radius * rng.lognormal(0, 0.35, count), 5, 2 * mean_radius)
    spheres = pack_spheres(rng, size, radii, 0.86)
    outline, contact, owner, neighbour = _weld(rng, size, spheres)

    fine, rough = smooth_field(rng, size, 2.5, 8), smooth_field(rng, size, 3, 40)
    outline += 0.5 * rough + 0.15 * fine
    outline -= np.quantile(outline[::2, ::2, ::2], 1 - rng.uniform(0.14, 0.24))  # sets the porosity
    grains = _mineral_greys(rng, size, spheres, owner, (fine, rough))
    tightness = rng.uniform(-1.6, 0.5, len(spheres)).astype(np.float32)
    half_width = tightness[owner] + tightness[neighbour] + 0.04 * outline + 0.3 * rough  # below 0: welded
    grains = blend(grains, PORE, coverage(contact - half_width) * (half_width > 0))

    clayey = np.clip(4 * (smooth_field(rng, size, 14, 90) + 0.3 * rough - 1.1), 0, 1)
    pores = blend(np.float32(PORE), 94 + 14 * fine + 8 * rough, clayey)
    scene = blend(pores, grains, coverage(outline))
    return scan(rng, scene, blur=0.8, noise=6.5, rings=0.9, fringe=rng.uniform(0.8, 2))
