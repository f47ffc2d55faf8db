"""Sums of images to values of a rock: pooled, compared with HR, with paired intervals."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from srgan_dist.measures.protocol import MEASURES
from srgan_dist.measures.statistics import interval, resample_weights, sums_of_units


class Pooled(NamedTuple):
    """A measure of one method on one rock: of all images, and of every resample."""

    value: float
    hr: float
    bias: float
    biases: np.ndarray | None  # [resamples]; None: too few units
    units: int | None  # that were resampled


def pool(measure, sums, of_hr, units):
    """Return Pooled from the sums of images or cells, [n, k] each; of_hr is None where HR itself is perfect.

    units: of every row, of the level that is resampled, or None.
    """
    kind = MEASURES[measure]

    both = [sums] if of_hr is None else [sums, of_hr]

    def values(sums, of_hr=None):
        value = kind.value(sums)
        hr = np.full_like(value, kind.perfect) if kind.perfect is not None else kind.value(of_hr)
        with np.errstate(invalid="ignore", divide="ignore"):
            return value, hr, value / hr - 1 if kind.bias == "relative" else value - hr

    whole, biases, count = values(*(x.sum(0) for x in both)), None, None
    if units is not None:
        of_units = [sums_of_units(x, units) for x in both]
        count = len(of_units[0])
        biases = values(*(resample_weights(count) @ x for x in of_units))[2]
    return Pooled(*map(float, whole), biases, count)


def gain_of(resolution, scale):
    """Return Pooled of the gain over LR's Nyquist frequency from that of `frc_resolution` in pixels: 1 is
    nothing gained, scale is all of HR.
    """
    biases = None if resolution.biases is None else 1 / (1 + resolution.biases) - 1
    bias = 1 / (1 + resolution.bias) - 1
    return Pooled(2 * scale / resolution.value, float(scale), bias, biases, resolution.units)


def entry_of(measure, pooled, others, counts, level):
    """Return the entry of a measure in measures.json; others: {method: Pooled} that it is compared with."""
    kind = MEASURES[measure]
    with np.errstate(invalid="ignore"):
        against = _compared(pooled, others)
    return {
        "value": number(pooled.value),
        "hr": number(pooled.hr),
        "bias": number(pooled.bias),
        "bias_kind": kind.bias,
        "interval": _interval(pooled, pooled.biases, pooled.bias),
        "unit": kind.unit,
        **counts,
        "level": level,
        "units": pooled.units,
        "against": against,
    }


def _compared(pooled, others):
    """Return {method: the difference of |bias|, and its interval} against other methods."""
    found = {}
    for other, their in others.items():
        difference = abs(pooled.bias) - abs(their.bias)
        resampled = None if pooled.biases is None else np.abs(pooled.biases) - np.abs(their.biases)
        found[other] = {
            "difference": number(difference),
            "interval": _interval(pooled, resampled, difference),
        }
    return found


def _interval(pooled, resampled, estimate):
    return None if resampled is None else interval(resampled, estimate, pooled.units)


def alike(arrays):
    """Return the positions of the arrays that have the commonest length, and those arrays: [images, k]."""
    lengths = Counter(len(array) for array in arrays)
    ((length, _),) = lengths.most_common(1)
    places = [place for place, array in enumerate(arrays) if len(array) == length]
    return places, np.stack([arrays[place] for place in places])


def number(value):
    """Return a float for JSON, None where it is not finite."""
    return float(value) if math.isfinite(value) else None
