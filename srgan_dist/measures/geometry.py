"""Size, shape and connection of pores: sums over an image, whose ratios are the measures.

pore, valid: [*shape] booleans, 2-D or 3-D; pixels that are not valid have no part. Lengths are in pixels.
Every function returns (numerator, denominator), so that images are pooled by their sums.
"""

import itertools

import numpy as np
from scipy import ndimage

# Share of the directions of a sphere that are nearest to each of the 13 directions to neighbours of a voxel,
# by the number of axes that it has (Legland, Kieu, Devaux 2007, "Computation of Minkowski measures on 2D and
# 3D binary images"); each stands for two opposite ones
WEIGHTS_3D = {1: 2 * 0.04577789120476, 2: 2 * 0.03698062787608, 3: 2 * 0.03519563978232}


def porosity(pore, valid):
    """Return the number of pore pixels, and of all."""
    return int((pore & valid).sum()), int(valid.sum())


def dice(pore, other, valid):
    """Return twice the pore pixels in common, and the pore pixels of both (Dice 1945)."""
    one, two = pore & valid, other & valid
    return 2 * int((one & two).sum()), int(one.sum()) + int(two.sum())


def specific_interface(pore, valid):
    """Return the length (3-D: area) of the interface of pores, and the area (volume) that it lies in.

    By the Crofton formula: crossings per length of lines in 4 directions times pi/2, in 13 directions
    times 2. Lines end at the borders, which are no interface.
    """
    area, ndim = int(valid.sum()), pore.ndim
    density = 0.0
    for direction in directions(ndim):
        one, two = (_ends(x, direction) for x in (pore, valid))
        both = two[0] & two[1]
        steps = int(both.sum())
        if not steps:
            continue
        axes = sum(map(abs, direction))
        crossings = int(((one[0] != one[1]) & both).sum()) / (steps * axes**0.5)
        density += crossings * (np.pi / 2 / 4 if ndim == 2 else 2 * WEIGHTS_3D[axes])
    return density * area, area


def directions(ndim):
    """Return the directions to half of the neighbours of a pixel: 4 in 2-D, 13 in 3-D."""
    return [step for step in itertools.product((-1, 0, 1), repeat=ndim) if step > (0,) * ndim]


def _ends(x, direction):
    """Return the pixels at both ends of every step in a direction."""
    first = tuple(slice(max(-step, 0), n - max(step, 0)) for step, n in zip(direction, x.shape, strict=True))
    last = tuple(slice(max(step, 0), n - max(-step, 0)) for step, n in zip(direction, x.shape, strict=True))
    return x[first], x[last]


def euler(pore, valid):
    """Return the Euler number of the pores, and the area (volume) that it was counted in.

    Pieces minus tunnels (plus cavities), of closed pixels, so that corners connect: the sum over their
    cells of (-1)^dimension. A pixel owns the cells towards the neighbours before it, so that the borders,
    where pores are cut, bias nothing (Ohser & Muecklich 2000, "Statistical analysis of microstructures",
    chapter 3).
    """
    number, known = 0, valid
    for axis in range(pore.ndim):
        before, after = _halves(known, axis)
        known = before & after
    for spanned in itertools.product((0, 1), repeat=pore.ndim):
        cell = pore
        for axis, spans in enumerate(spanned):
            before, after = _halves(cell, axis)
            cell = after if spans else before | after  # a face belongs to the pores if one of its pixels does
        number += (-1) ** sum(spanned) * int((cell & known).sum())
    return number, int(known.sum())


def _halves(x, axis):
    """Return the pixels that have a neighbour behind them along an axis, and those neighbours."""
    return x[(slice(None),) * axis + (slice(0, -1),)], x[(slice(None),) * axis + (slice(1, None),)]


def chord_counts(pore, valid):
    """Return the numbers of chords through pores of 1, 2, ... pixels along every axis: [longest side].

    Chords that the border or an invalid pixel cuts have no known length and no part (Torquato & Lu 1993,
    "Chord-length distribution function for two-phase random media").
    """
    lengths = [
        _chords(np.moveaxis(pore & valid, axis, -1), np.moveaxis(valid, axis, -1))
        for axis in range(pore.ndim)
    ]
    return np.bincount(np.concatenate(lengths), minlength=max(pore.shape) + 1)[1:]


def _chords(pore, valid):
    """Return the lengths of the runs of pore pixels along the last axis that end in rock at both sides."""
    lines = np.pad(pore.reshape(-1, pore.shape[-1]), [(0, 0), (1, 1)])
    rock = np.pad((valid & ~pore).reshape(-1, pore.shape[-1]), [(0, 0), (1, 1)])
    steps = np.diff(lines.astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    # lines[:, i + 1] is pixel i: a run of pixels start..end - 1 has rock before and behind it
    whole = rock[rows, starts] & rock[rows, ends + 1]
    return (ends - starts)[whole]


def connected_porosity(pore, valid):
    """Return the pore voxels that are connected (26 neighbours; 8 in 2-D) to both ends along some axis, the
    mean over axes, and the number of all voxels.
    """
    regions, _ = ndimage.label(pore & valid, np.ones((3,) * pore.ndim))
    through = 0
    for axis in range(pore.ndim):
        numbers = np.intersect1d(regions.take(0, axis), regions.take(-1, axis))
        through += int(np.isin(regions, numbers[numbers > 0]).sum())
    return through / pore.ndim, int(valid.sum())
