"""Sets whose measures are known by a formula."""

import numpy as np


def boolean_model(shape, radius, phi, seed):
    """Return the pores [*shape], of volume fraction phi, that overlapping balls (2-D: discs) of rock leave;
    periodic (Torquato 2002, chapter 5).
    """
    rng, ndim = np.random.default_rng(seed), len(shape)
    ball = np.pi * radius**2 if ndim == 2 else 4 / 3 * np.pi * radius**3
    rock = np.zeros(shape, bool)
    for centre in rng.random((rng.poisson(-np.log(phi) / ball * np.prod(shape)), ndim)) * shape:
        near = [np.arange(int(c - radius) - 1, int(c + radius) + 2) for c in centre]
        squares = sum((axis - c) ** 2 for axis, c in zip(np.meshgrid(*near, indexing="ij"), centre))
        rock[np.ix_(*(axis % n for axis, n in zip(near, shape)))] |= squares < radius**2
    return ~rock


def ball(side, radius, ndim, offset=0.0):
    """Return a ball [side, ...] around the middle."""
    axes = np.meshgrid(*[np.arange(side) - (side - 1) / 2 + offset] * ndim, indexing="ij")
    return sum(axis**2 for axis in axes) < radius**2
