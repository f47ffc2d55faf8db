"""Sums of images to values of a rock: pooled, compared with HR, with paired intervals."""

import itertools
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from srgan_dist.measures.protocol import MEASURES
from srgan_dist.measures.statistics import interval, resample_weights

MILLIDARCY = 9.8692e-4  # square micrometres


class Pooled(NamedTuple):
    """A measure of one method on one rock: of all images, and of every resample."""

    value: float
    hr: float
    bias: float
    biases: np.ndarray | None  # [resamples]; None: too few units


def pool(measure, sums, of_hr, units):
    """Return Pooled from the sums of images, [images, k] each; of_hr is None where HR itself is perfect.

    units: of every image, of the level that is resampled, or None.
    """
    kind = MEASURES[measure]

    def values(weights):
        value = kind.value(weights @ sums)
        hr = np.full_like(value, kind.perfect) if kind.perfect is not None else kind.value(weights @ of_hr)
        with np.errstate(invalid="ignore", divide="ignore"):
            return value, hr, value / hr - 1 if kind.bias == "relative" else value - hr

    whole = [float(x[0]) for x in values(np.ones((1, len(sums))))]
    return Pooled(*whole, values(resample_weights(units))[2] if units is not None else None)


def gain_of(resolution, scale):
    """Return Pooled of the gain over LR's Nyquist frequency from that of `frc_resolution` in pixels: 1 is
    nothing gained, scale is all of HR.
    """
    biases = None if resolution.biases is None else 1 / (1 + resolution.biases) - 1
    return Pooled(2 * scale / resolution.value, float(scale), 1 / (1 + resolution.bias) - 1, biases)


def physical_unit(unit, ndim, size):
    """Return (unit as written, factor of values) of a unit of MEASURES; size: of a voxel in um, or None.

    With a voxel size lengths are in um, permeability in millidarcy (1 mD = 9.8692e-16 m^2).
    """
    power = {"px": 1, "1/px": -1, "1/px^n": -ndim, "px^2": 2}.get(unit)
    if power is None:
        return unit, 1.0
    if size is None:
        return unit.replace("^n", str(ndim)).replace("^", ""), 1.0
    if power == 2:
        return "mD", size**2 / MILLIDARCY
    return ("um" if power == 1 else f"1/um{ndim if power == -ndim else ''}"), float(size) ** power


def entry_of(measure, found, method, counts, unit=None, factor=1.0):
    """Return the entry of a measure in measures.json, of one of the methods of `found`: {method: Pooled}; it
    is compared with those before it. unit, factor: as `physical_unit` gives them.
    """
    kind, pooled = MEASURES[measure], found[method]
    others = dict(itertools.takewhile(lambda item: item[0] != method, found.items()))
    against = {
        other: {
            "difference": number(abs(pooled.bias) - abs(their.bias)),
            "interval": None
            if pooled.biases is None
            else interval(np.abs(pooled.biases) - np.abs(their.biases)),
        }
        for other, their in others.items()
    }
    return {
        "value": number(pooled.value * factor),
        "hr": number(pooled.hr * factor),
        "bias": number(pooled.bias),
        "bias_kind": kind.bias,
        "interval": None if pooled.biases is None else interval(pooled.biases),
        "unit": kind.unit if unit is None else unit,
        **counts,
        "against": against,
    }


def alike(arrays):
    """Return the positions of the arrays that have the commonest length, and those arrays: [images, k]."""
    lengths = Counter(len(array) for array in arrays)
    ((length, _),) = lengths.most_common(1)
    places = [place for place, array in enumerate(arrays) if len(array) == length]
    return places, np.stack([arrays[place] for place in places])


def number(value):
    """Return a float for JSON, None where it is not finite."""
    return float(value) if math.isfinite(value) else None
