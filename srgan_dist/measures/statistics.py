"""Honest intervals: paired resampling of the highest level that has enough independent units."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

SMALLEST_COUNT = 5  # units of a level that can be resampled
RESAMPLES = 2000
PERCENTILES = 2.5, 97.5


def choose_level(levels):
    """Return (name, units of every image) of the highest level with 5 units or more, or None.

    levels: {name: unit of every image, or None where it is unknown}, from the highest to the lowest.
    """
    for name, units in levels.items():
        if enough(units):
            return name, units
    return None


def enough(units):
    """Return whether a list of the units of images has as many different ones as can be resampled."""
    return units is not None and len(set(units)) >= SMALLEST_COUNT


def separate_blocks(corners, reach):
    """Number the blocks of one source so that those which are not independent have one number: [blocks].

    corners: [blocks, axes] in pixels. reach: [axes], the distance along an axis from which on two blocks
    are independent; two of them share a number where they are nearer than that along every axis, or where a
    chain of such neighbours joins them. So tiles that overlap count once.
    """
    places = np.asarray(corners, float) / np.asarray(reach, float)
    pairs = KDTree(places).query_pairs(1 - 1e-9, p=np.inf, output_type="ndarray")
    joined = sparse.coo_matrix((np.ones(len(pairs)), tuple(pairs.T)), (len(places),) * 2)
    return connected_components(joined, directed=False)[1]


def resample_weights(units):
    """Return how often each image counts in each resample, [2000, images] integers; images of a unit together
    (the cluster bootstrap of Davison & Hinkley 1997, section 3.8). The same units give the same resamples, so
    that differences between methods are paired.
    """
    names, unit = np.unique(np.asarray(units, str), return_inverse=True)
    rng = np.random.default_rng(len(names))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return drawn[:, unit]


def interval(values):
    """Return the 95 % interval of resampled values [R] by percentiles, or None where one is not finite."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        return None
    return [float(x) for x in np.percentile(values, PERCENTILES)]
