"""Size, shape and connection of pores, and grey levels: sums over an image, whose ratios are the measures.

pore, valid: [*shape] booleans, 2-D or 3-D; pixels that are not valid have no part. Lengths are in pixels.
Every function returns numerators and denominators of the cells of an image, [cells, 2], so that cells and
images are pooled by their sums. edges: of the cells (`cells.edges_of`); None: the image is one cell.
"""

import itertools
import math

import edt
import numpy as np
from scipy import ndimage

from srgan_dist.measures.cells import cells_at, sums_over

# Share of the directions of a sphere that are nearest to each of the 13 directions to neighbours of a voxel,
# by the number of axes that it has (Legland, Kieu, Devaux 2007, "Computation of Minkowski measures on 2D and
# 3D binary images"); each stands for two opposite ones
WEIGHTS_3D = {1: 2 * 0.04577789120476, 2: 2 * 0.03698062787608, 3: 2 * 0.03519563978232}


def porosity(pore, valid, edges=None):
    """Return the number of pore pixels, and of all."""
    return _sums(edges, pore & valid, valid)


def deeper_than(distance, phase):
    """Return the pixels of a phase, [*shape] booleans, that are farther than a distance from all others. The
    border of the image is no end of it.
    """
    return edt.edt(np.ascontiguousarray(phase), black_border=False, parallel=1) > distance


def dice(pore, other, valid, edges=None):
    """Return twice the pore pixels in common, and the pore pixels of both (Dice 1945)."""
    one, two = pore & valid, other & valid
    return _sums(edges, one & two, one.astype(int) + two) * (2, 1)


def _sums(edges, numerator, denominator):
    return np.stack([sums_over(numerator, edges), sums_over(denominator, edges)], -1)


def squared_error(image, other, valid, edges=None):
    """Return the sum of the squared differences of two grey images, and the number of pixels."""
    return _sums(edges, np.where(valid, image - other, 0) ** 2, valid)


def specific_interface(pore, valid, edges=None):
    """Return the length (3-D: area) of the interface of pores, and the area (volume) that it lies in.

    By the Crofton formula: crossings per length of lines in 4 directions times pi/2, in 13 directions
    times 2. Lines end at the borders, which are no interface.
    """
    area, ndim = sums_over(valid, edges), pore.ndim
    interface = np.zeros(len(area))
    for direction in directions(ndim):
        one, two = (_ends(x, direction) for x in (pore, valid))
        both = two[0] & two[1]
        steps = int(both.sum())
        if not steps:
            continue
        axes = sum(map(abs, direction))
        before = [(max(-step, 0), 0) for step in direction]  # a crossing belongs to its first pixel
        crossings = sums_over(np.pad((one[0] != one[1]) & both, before), edges)
        weight = np.pi / 2 / 4 if ndim == 2 else 2 * WEIGHTS_3D[axes]
        interface += weight * crossings * area.sum() / (steps * axes**0.5)
    return np.stack([interface, area], -1)


def directions(ndim):
    """Return the directions to half of the neighbours of a pixel: 4 in 2-D, 13 in 3-D."""
    return [step for step in itertools.product((-1, 0, 1), repeat=ndim) if step > (0,) * ndim]


def _ends(x, direction):
    """Return the pixels at both ends of every step in a direction."""
    first = tuple(slice(max(-step, 0), n - max(step, 0)) for step, n in zip(direction, x.shape, strict=True))
    last = tuple(slice(max(step, 0), n - max(-step, 0)) for step, n in zip(direction, x.shape, strict=True))
    return x[first], x[last]


def euler(pore, valid, edges=None):
    """Return the Euler number of the pores, and the area (volume) that it was counted in.

    Pieces minus tunnels (plus cavities), of closed pixels, so that corners connect: the sum over their
    cells of (-1)^dimension. A pixel owns the cells towards the neighbours before it, so that the borders,
    where pores are cut, bias nothing (Ohser & Muecklich 2000, "Statistical analysis of microstructures",
    chapter 3).
    """
    known = valid
    for axis in range(pore.ndim):
        before, after = _halves(known, axis)
        known = before & after
    number = np.zeros(known.shape, int)
    for spanned in itertools.product((0, 1), repeat=pore.ndim):
        face = pore
        for axis, spans in enumerate(spanned):
            before, after = _halves(face, axis)
            face = after if spans else before | after  # a face belongs to the pores if one of its pixels does
        number += (-1) ** sum(spanned) * (face & known)
    return _sums(edges, number, known)


def _halves(x, axis):
    """Return the pixels that have a neighbour behind them along an axis, and those neighbours."""
    return x[(slice(None),) * axis + (slice(0, -1),)], x[(slice(None),) * axis + (slice(1, None),)]


def chords(pore, valid, edges=None):
    """Return the sum of the lengths of the chords through pores along every axis and their number, and how
    many there are of 1, 2, ... pixels: [cells, 2], [longest side].

    Chords that the border or an invalid pixel cuts have no known length and no part (Torquato & Lu 1993,
    "Chord-length distribution function for two-phase random media"). A chord belongs to its first pixel.
    """
    edges = edges or [[0]] * pore.ndim
    lengths, cells = [], []
    for axis in range(pore.ndim):
        along, first = _chords(np.moveaxis(pore & valid, axis, -1), np.moveaxis(valid, axis, -1))
        lengths.append(along)
        cells.append(cells_at([*first[:axis], first[-1], *first[axis:-1]], edges))
    lengths, cells = np.concatenate(lengths), np.concatenate(cells)
    count = math.prod(map(len, edges))
    sums = [np.bincount(cells, weights, count) for weights in (lengths, None)]
    return np.stack(sums, -1), np.bincount(lengths, minlength=max(pore.shape) + 1)[1:]


def _chords(pore, valid):
    """Return the lengths of the runs of pore pixels along the last axis that end in rock at both sides, and
    their first pixels: [n], [axes, n].
    """
    lines = np.pad(pore.reshape(-1, pore.shape[-1]), [(0, 0), (1, 1)])
    rock = np.pad((valid & ~pore).reshape(-1, pore.shape[-1]), [(0, 0), (1, 1)])
    steps = np.diff(lines.astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    # lines[:, i + 1] is pixel i: a run of pixels start..end - 1 has rock before and behind it
    whole = rock[rows, starts] & rock[rows, ends + 1]
    first = (*np.unravel_index(rows, pore.shape[:-1]), starts)
    return (ends - starts)[whole], np.stack(first)[:, whole]


def connected_porosity(pore, valid):
    """Return the pore voxels that are connected (26 neighbours; 8 in 2-D) to both ends along some axis, the
    mean over axes, and the number of all voxels: one cell, for it takes the whole to connect.
    """
    regions, _ = ndimage.label(pore & valid, np.ones((3,) * pore.ndim))
    through = 0
    for axis in range(pore.ndim):
        numbers = np.intersect1d(regions.take(0, axis), regions.take(-1, axis))
        through += int(np.isin(regions, numbers[numbers > 0]).sum())
    return np.array([[through / pore.ndim, valid.sum()]])
