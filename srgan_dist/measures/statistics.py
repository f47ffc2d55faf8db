"""Honest intervals: paired resampling of the highest level that has enough independent units."""

from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.special import ndtri, stdtrit

SMALLEST_COUNT = 5  # units of a level that can be resampled
RESAMPLES = 2000
PERCENTILES = 2.5, 97.5


def choose_level(levels):
    """Return (name, units of every image) of the highest level with 5 units or more; else (None, None).

    levels: {name: unit of every image, or None where it is unknown}, from the highest to the lowest.
    """
    for name, units in levels.items():
        if units is not None and len(set(units)) >= SMALLEST_COUNT:
            return name, units
    return None, None


def separate_blocks(corners, reach):
    """Number the blocks of one source so that those which are not independent have one number: [blocks].

    corners: [blocks, axes] in pixels. reach: [axes], the distance along an axis from which on two blocks
    are independent; two of them share a number where they are nearer than that along every axis, or where a
    chain of such neighbours joins them. So tiles that overlap count once.
    """
    places, number = np.unique(np.asarray(corners, float), axis=0, return_inverse=True)
    places = places / np.asarray(reach, float)
    pairs = KDTree(places).query_pairs(1 - 1e-9, p=np.inf, output_type="ndarray")
    joined = sparse.coo_matrix((np.ones(len(pairs)), tuple(pairs.T)), (len(places),) * 2)
    return connected_components(joined, directed=False)[1][number]


@lru_cache(maxsize=1)  # all measures of a rock ask for the same
def resample_weights(count):
    """Return how often each of `count` units counts in each resample, [2000, count] integers (the cluster
    bootstrap of Davison & Hinkley 1997, section 3.8). As many units give the same resamples, so that
    differences between methods are paired.
    """
    rng = np.random.default_rng(count)
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)


def sums_of_units(sums, units):
    """Return the sums of images or cells [n, k] added up by unit, in the order of their names: [units, k]."""
    names, unit = np.unique(np.asarray(units, str), return_inverse=True)
    totals = np.zeros((len(names), sums.shape[1]))
    np.add.at(totals, unit, sums)
    return totals


def interval(values, estimate, count):
    """Return the 95 % interval of an estimate from its resampled values [R] of `count` units, or None where
    one is not finite.

    Percentiles of n resampled units are too narrow by the factor 1.96 / t * sqrt((n - 1) / n), t of n - 1
    degrees of freedom (Hesterberg 2015, "What teachers should know about the bootstrap"): they are moved away
    from the estimate by as much.
    """
    values = np.asarray(values, float)
    if not (np.isfinite(values).all() and np.isfinite(estimate)):
        return None
    low, high = np.percentile(values, PERCENTILES)
    share = PERCENTILES[1] / 100
    factor = stdtrit(count - 1, share) / ndtri(share) * np.sqrt(count / (count - 1))
    wider_low, wider_high = (estimate + factor * (end - estimate) for end in (low, high))
    return [float(min(low, wider_low)), float(max(high, wider_high))]  # also where the estimate is outside
