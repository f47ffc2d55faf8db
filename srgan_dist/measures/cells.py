"""Cells: squares (cubes) of a grid on a source image, of which the units are made that intervals resample."""

import numpy as np

SIDE = {2: 64, 3: 32}  # pixels


def edges_of(corner, shape):
    """Return the first pixel of every cell along each axis of an image; corner: its first pixel in the
    source, [axes].

    The grid is that of the source, so that tiles that overlap share cells.
    """
    side = SIDE[len(shape)]
    return [
        np.r_[0, np.arange(side - first % side, length, side)]
        for first, length in zip(corner, shape, strict=True)
    ]


def places_of(corner, shape):
    """Return the place of every cell of an image in the grid of its source: [cells, axes] integers."""
    side = SIDE[len(shape)]
    along = [(first + edges) // side for first, edges in zip(corner, edges_of(corner, shape), strict=True)]
    return np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, len(shape))


def sums_over(values, edges):
    """Return the sums of values over cells, [cells]; an axis that ends before the last cell counts as 0 from
    there on. edges None: one cell.
    """
    if edges is None:
        return np.array([values.sum()], float)
    missing = [(0, max(int(first[-1]) + 1 - n, 0)) for first, n in zip(edges, values.shape, strict=True)]
    values = np.pad(values, missing)
    for axis, first in enumerate(edges):
        values = np.add.reduceat(values, first, axis, np.int64 if values.dtype == bool else None)
    return values.ravel().astype(float)


def cells_at(places, edges):
    """Return the cells of pixels: places [axes, n] -> [n]."""
    along = [np.searchsorted(first, place, "right") - 1 for first, place in zip(edges, places, strict=True)]
    return np.ravel_multi_index(along, [len(first) for first in edges])
