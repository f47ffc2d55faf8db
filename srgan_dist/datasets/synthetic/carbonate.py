"""Synthetic carbonate: ooids, shells and fragments that are laid down, cemented and partly dissolved."""

from typing import NamedTuple

import numpy as np

from srgan_dist.datasets.synthetic.scanner import scan
from srgan_dist.datasets.synthetic.textures import (
    blend,
    coverage,
    crystals,
    ellipse,
    polygon,
    shell_distance,
    smooth_field,
    window,
)


class Fabric(NamedTuple):
    """A kind of carbonate: its bodies (ooids, shells, fragments) and the cement between them."""

    cement: int  # its grey level
    dulling: tuple  # range of grey levels by which bodies are darker than the cement
    laminae: float  # contrast of the bodies' concentric layers
    angular: float  # share of bodies that are angular fragments, not ooids
    hollow_shells: float  # share of shells that are dissolved to a mould
    hollow_nuclei: float  # share of other bodies whose nucleus is dissolved
    crystal: int  # size of the cement crystals in pixels
    porosity: tuple  # range of the share of pores in the cement
    ragged: float  # roughness of outlines in pixels
    noise: float  # of the scanner, in grey levels


FABRICS = (
    Fabric(  # oolitic
        cement=166,
        dulling=(2, 12),
        laminae=1.0,
        angular=0.0,
        hollow_shells=0.8,
        hollow_nuclei=0.45,
        crystal=7,
        porosity=(0.07, 0.18),
        ragged=0.5,
        noise=14.0,
    ),
    Fabric(  # bioclastic
        cement=150,
        dulling=(-8, 34),
        laminae=0.3,
        angular=0.5,
        hollow_shells=0.1,
        hollow_nuclei=0.1,
        crystal=5,
        porosity=(0.18, 0.32),
        ragged=1.5,
        noise=11.3,
    ),
)


def _laminae(rng, depth):
    """Return the grey contrast of concentric layers at a depth below a body's surface."""
    profile = 7 * np.convolve(rng.standard_normal(128), np.ones(4) / 4, "same")
    for ring in rng.integers(3, 60, rng.integers(1, 5)):
        profile[ring : ring + 2] -= rng.uniform(10, 30)
    profile[:3] -= rng.uniform(10, 34)
    return np.interp(depth, np.arange(128), profile).astype(np.float32)


def _hollow(rng, y, x, depth, radius, shell, rough):
    """Return the depth in a mould (negative outside): a shell without its rim, or the nucleus of an ooid."""
    if shell:
        return depth - rng.uniform(4, 12)
    row, column = rng.normal(0, 0.12 * radius, 2).tolist()
    return 1.5 * rough - ellipse(rng, y - row, x - column, radius * rng.uniform(0.25, 0.6))


def _lay_bodies(rng, size, fabric, rough):
    """Lay shells, then ooids or fragments, large ones first, without much overlap.

    Returns their grey levels, the distance to the nearest body (negative inside) and the depth below the wall
    of a mould (positive inside); all [size, size].
    """
    greys, outline = np.full((size, size), fabric.cement, np.float32), np.full((size, size), 40, np.float32)
    mould = np.full((size, size), -9, np.float32)
    count = 10 + int(80 * (size / 500) ** 2)
    radii = np.sort(np.clip(rng.lognormal(3.5, 0.5, count), 10, 90))[::-1]
    shells = rng.poisson(0.05 * count)
    for number, radius in enumerate(radii.tolist()):
        shell = number < shells
        radius = rng.uniform(50, 140) if shell else radius
        region, y, x = window(size, *rng.uniform(-50, size + 50, 2).tolist(), 1.5 * radius + 20)
        if shell:
            distance = shell_distance(rng, y, x, radius, rng.uniform(8, 28))
        else:
            distance = (polygon if rng.random() < fabric.angular else ellipse)(rng, y, x, radius)
        distance = distance + fabric.ragged * rough[region]
        inside = distance < 0
        if not inside.any() or np.mean(outline[region][inside] < 3) > 0.08:
            continue

        visible = inside & (distance < outline[region])
        outline[region] = np.minimum(outline[region], distance)
        depth = np.maximum(-distance, 0)
        body = fabric.cement - rng.uniform(*fabric.dulling) + fabric.laminae * _laminae(rng, depth)
        greys[region] = np.where(visible, body + (2 + 3 * fabric.ragged) * rough[region], greys[region])
        if rng.random() < (fabric.hollow_shells if shell else fabric.hollow_nuclei):
            hollow = _hollow(rng, y, x, depth, radius, shell, rough[region])
            mould[region] = np.where(visible, hollow, mould[region])
    return greys, outline, mould


def _pore_shares(rng, fabric, level, mould, textures, mosaic):
    """Return the share of pores [size, size]: where their `level` in the cement is above 0, and in moulds."""
    fine, rough, patch = textures
    crystal, gap, seeds = mosaic
    # Crystals are present or absent as a whole, so that pores get the stepped walls of a drusy cement.
    jitter = rng.normal(0, 0.3, len(seeds)).astype(np.float32)
    pores = (level.ravel()[seeds] + jitter)[crystal] + 0.15 * fabric.ragged * fine > 0
    loose = np.clip(level + 1, 0, 1)  # near pores the crystals also part from each other
    pores = np.maximum(pores, coverage(gap - 1.6 * loose) * (loose > 0.5) * (fine > -0.2))
    # Moulds have smooth walls, some lined with crystals.
    smooth_wall = (mould > -4) & ((mould > 8) | (rough + 0.5 * patch < 0.9))
    return np.where(smooth_wall, coverage(-mould - 0.5 * rough), pores)


def draw_carbonate(rng, size):
    """Ooids or shell fragments, some dissolved to moulds, in a cement of crystals with pores between them."""
    fabric = FABRICS[rng.integers(len(FABRICS))]
    fine = smooth_field(rng, size, 2.5, 8)
    rough = smooth_field(rng, size, 3, 40)
    patch = smooth_field(rng, size, 30, 160)
    greys, outline, mould = _lay_bodies(rng, size, fabric, rough)
    mosaic = crystal, _, seeds = crystals(rng, size, fabric.crystal)

    # Pores prefer patches, the middle between bodies and, in ragged fabrics, their margins.
    level = 1.1 * patch + 0.7 * rough + 0.02 * outline + 0.5 * fabric.ragged * np.exp(-((outline / 3) ** 2))
    cement = outline > 0
    if cement.any():
        level -= np.quantile(level[cement], 1 - rng.uniform(*fabric.porosity))
    level = np.where(cement, level, np.maximum(mould / 3, -2))
    pores = _pore_shares(rng, fabric, level, mould, (fine, rough, patch), mosaic)

    micropores = np.clip(1.2 * (fine + 0.6 * rough + 0.6 * patch) - 2.7, 0, 0.9)
    greys += 3 * patch + rng.normal(0, 6, len(seeds)).astype(np.float32)[crystal] * cement
    scene = blend(blend(greys, 70, micropores), 46 + 2 * patch, pores)
    return scan(rng, scene, noise=fabric.noise, rings=0.7)
