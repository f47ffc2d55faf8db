"""Synthetic carbonate: ooids and shell fragments that are laid down, cemented and partly dissolved."""

from typing import NamedTuple

import numpy as np

from srgan_dist.datasets.synthetic.textures import blend, coverage
from srgan_dist.datasets.synthetic.volumes.scanner import scan
from srgan_dist.datasets.synthetic.volumes.shapes import (
    directions,
    height,
    pack_spheres,
    polyhedron,
    smooth_field,
    window,
)

PORE = 46
DEPTHS = 128  # of the table of grey levels by depth below the surface of a body


class Fabric(NamedTuple):
    """A kind of carbonate: its bodies (ooids, shells, fragments) and the cement between them."""

    cement: int  # its grey level
    dulling: tuple  # range of grey levels by which bodies are darker than the cement
    laminae: float  # contrast of the bodies' concentric layers
    angular: float  # share of bodies that are angular fragments, not ooids
    shells: float  # share of bodies that are shells
    hollow: float  # share of bodies that are dissolved to a mould
    porosity: tuple  # range of the share of pores in the cement
    ragged: float  # roughness of outlines in voxels


FABRICS = (
    Fabric(  # oolitic
        cement=164,
        dulling=(2, 14),
        laminae=1.0,
        angular=0.0,
        shells=0.05,
        hollow=0.3,
        porosity=(0.15, 0.35),
        ragged=0.4,
    ),
    Fabric(  # bioclastic
        cement=150,
        dulling=(-8, 30),
        laminae=0.3,
        angular=0.6,
        shells=0.25,
        hollow=0.12,
        porosity=(0.2, 0.4),
        ragged=1.2,
    ),
)


def _ooid(rng, axes, radius):
    """Return the distance to a spheroid, [d, h, w]."""
    along = height(axes, directions(rng, 1)[0])
    across = sum(axis**2 for axis in axes) - along**2
    stretch = rng.uniform(1, 1.35)
    return np.sqrt((along / stretch) ** 2 + np.maximum(across, 0) * stretch) - radius


def _shell(rng, axes, radius):
    """Return the distance to a shell: a cap of a hollow sphere that thins towards its rim, [d, h, w]."""
    direction = directions(rng, 1)[0]
    curvature = radius * rng.uniform(0.9, 1.8)
    axes = [axis - part * curvature for axis, part in zip(axes, direction)]  # from the centre of the sphere
    from_centre = np.sqrt(sum(axis**2 for axis in axes))
    rim = np.sqrt(np.maximum(from_centre**2 - height(axes, direction) ** 2, 0)) / radius
    thickness = rng.uniform(1.5, 4) * np.clip(1 - 0.6 * rim**2, 0.1, 1)
    hemisphere = height(axes, direction)  # negative on the side of the cap
    return np.maximum(np.maximum(np.abs(from_centre - curvature) - thickness, (rim - 1) * radius), hemisphere)


def _fragment(rng, axes, radius):
    return polyhedron(rng, axes, radius, int(rng.integers(4, 8)))


def _laminae(rng, depth):
    """Return the grey contrast of concentric layers at a depth below a body's surface."""
    profile = 6 * np.convolve(rng.standard_normal(DEPTHS), np.ones(3) / 3, "same")
    for layer in rng.integers(2, 30, rng.integers(1, 5)):
        profile[layer : layer + 2] -= rng.uniform(8, 26)
    profile[:2] -= rng.uniform(8, 30)
    return np.interp(depth, np.arange(DEPTHS), profile).astype(np.float32)


def _lay_bodies(rng, size, fabric, rough):
    """Lay bodies, large ones first.

    Returns their grey levels, the distance to the nearest body (negative inside) and the depth below the wall
    of a mould (positive inside); all [size, size, size].
    """
    greys = np.full((size, size, size), fabric.cement, np.float32)
    outline, mould = np.full_like(greys, 40), np.full_like(greys, -9)
    shares = fabric.shells, (1 - fabric.shells) * fabric.angular, (1 - fabric.shells) * (1 - fabric.angular)
    radii = np.clip(rng.lognormal(2.6, 0.4, int(3 * (size / 14 + 2) ** 3 / 4.2) + 20), 5, 34)
    for *centre, radius in pack_spheres(rng, size, radii, 0.92).tolist():
        region, axes = window(size, centre, 1.7 * radius + 8)
        kind = rng.choice([_shell, _fragment, _ooid], p=shares)
        distance = kind(rng, axes, radius) + fabric.ragged * rough[region]
        visible = (distance < 0) & (distance < outline[region])
        np.copyto(outline[region], np.minimum(outline[region], distance))
        body = fabric.cement - rng.uniform(*fabric.dulling) + (2 + 3 * fabric.ragged) * rough[region]
        body += fabric.laminae * _laminae(rng, -distance)
        np.copyto(greys[region], body, where=visible)
        if rng.random() < fabric.hollow:  # a shell as a whole, of others all but a rind
            rind = 0.6 if kind is _shell else radius * rng.uniform(0.15, 0.7)
            np.copyto(mould[region], -distance - rind, where=visible)
    return greys, outline, mould


def draw_carbonate(rng, size):
    """Ooids or shell fragments, some dissolved to moulds, in a cement with pores between them."""
    fabric = FABRICS[rng.integers(len(FABRICS))]
    fine, rough = smooth_field(rng, size, 2.5, 8), smooth_field(rng, size, 3, 40)
    lumps, patch = smooth_field(rng, size, 5, 40), smooth_field(rng, size, 20, 110)
    greys, outline, mould = _lay_bodies(rng, size, fabric, rough)

    # Pores prefer patches and the middle between bodies; blocky crystals of cement line them.
    level = 1.1 * patch + 0.7 * lumps + 0.12 * fine + 0.12 * np.minimum(outline, 12)
    cement = outline > 0
    if cement.any():
        level -= np.quantile(level[cement], 1 - rng.uniform(*fabric.porosity))
    pores = np.clip(0.5 + 2.5 * level, 0, 1) * np.clip(outline + 0.5, 0, 1)
    pores = np.maximum(pores, coverage(-mould - 0.4 * rough))

    micropores = np.clip(1.2 * (fine + 0.6 * rough + 0.6 * patch) - 2.2, 0, 0.85)
    greys += 3 * patch + 5 * fine * cement
    scene = blend(blend(greys, 74, micropores), PORE + 2 * patch, pores)
    return scan(rng, scene, blur=0.75, noise=7.5, rings=0.8, fringe=rng.uniform(0.4, 1))
