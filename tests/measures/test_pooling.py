"""Pooling, intervals by paired resampling, and verdicts in words."""

import numpy as np
import pytest

from srgan_dist.measures.pooling import Pooled, alike, entry_of, gain_of, number, pool
from srgan_dist.measures.statistics import choose_level, resample_weights, sums_of_units
from srgan_dist.measures.verdicts import verdict

COUNTS = {"images": 8, "sources": 8, "plugs": 1}


def test_a_measure_is_a_ratio_of_sums_and_its_bias_that_of_ratios():
    sums, of_hr = np.array([[1.0, 10], [5, 10]]), np.array([[2.0, 10], [8, 10]])
    found = pool("porosity", sums, of_hr, None)
    assert found.value == 0.3 and found.hr == 0.5 and found.bias == pytest.approx(-0.4)
    assert found.biases is found.units is None
    assert pool("dice", sums, None, None).bias == pytest.approx(-0.7)  # HR itself is perfect


def test_resamples_take_units_whole_and_the_same_ones_for_every_method():
    weights = resample_weights(5)
    assert (weights.sum(1) == 5).all() and np.array_equal(weights, resample_weights(5))
    means = weights @ np.arange(5.0) / 5
    # Of the mean of five: the standard deviation of the units over sqrt(5)
    assert means.mean() == pytest.approx(2, abs=0.05)
    assert means.std() == pytest.approx(np.std(np.arange(5)) / 5**0.5, rel=0.05)
    rows = np.arange(12.0).reshape(6, 2)
    summed = sums_of_units(rows, ["b", "a", "b", "c", "d", "e"])
    assert summed.tolist() == [[2, 3], [4, 6], [6, 7], [8, 9], [10, 11]]


def test_the_highest_level_with_five_units_is_resampled():
    levels = {"plug": ["p"] * 6, "source": list("aabbcc"), "block": list("abcdef")}
    assert choose_level(levels) == ("block", list("abcdef"))
    assert choose_level(levels | {"source": list("abcdee")})[0] == "source"
    assert choose_level(levels | {"block": None}) == (None, None)


def paired(errors, better):
    """Return Pooled porosities of two methods, the second with `better` of the errors of the first."""
    hr = np.stack([np.full(8, 20.0), np.full(8, 100.0)], 1)
    worse, best = hr.copy(), hr.copy()
    worse[:, 0] += errors
    best[:, 0] += better * errors
    units = list("abcdefgh")
    return pool("porosity", worse, hr, units), pool("porosity", best, hr, units)


def test_a_verdict_is_in_words_only_where_the_interval_excludes_0():
    errors = np.linspace(2, 4, 8)
    worse, best = paired(errors, 0.5)
    entries = {"porosity": entry_of("porosity", best, {"bicubic": worse}, COUNTS, "source")}
    assert entries["porosity"]["against"]["bicubic"]["interval"][1] < 0
    assert entries["porosity"]["interval"][0] > 0 and entries["porosity"]["level"] == "source"
    assert entries["porosity"]["units"] == 8
    assert verdict("pretrain", entries, {}) == "Against bicubic: closer to HR in porosity."
    entries = {"porosity": entry_of("porosity", worse, {"phase 1": best}, COUNTS, "source")}
    assert verdict("x", entries, {}) == "Against phase 1: further from HR in porosity."
    noisy, same = paired(np.array([3.0, -3, 2, -2, 4, -4, 1, -1]), -1.0)
    entries = {"porosity": entry_of("porosity", same, {"bicubic": noisy}, COUNTS, "source")}
    assert verdict("x", entries, {}) == "Against bicubic: undecided in porosity."


def test_too_few_units_give_no_verdict_and_a_reference_none():
    sums = np.array([[1.0, 10]])
    few = pool("porosity", sums, sums, None)
    entries = {"porosity": entry_of("porosity", few, {"bicubic": few}, COUNTS, None)}
    assert entries["porosity"]["interval"] is entries["porosity"]["units"] is None
    assert "fewer than 5 independent" in verdict("x", entries, {})
    alone = {"porosity": entry_of("porosity", few, {}, COUNTS, None)}
    assert verdict("bicubic", alone, {"bicubic": "Bicubic"}) == "Bicubic: the others are compared with it."


def test_sums_of_the_commonest_length_are_pooled():
    places, stacked = alike([np.zeros(3), np.ones(2), np.full(3, 2.0)])
    assert places == [0, 2] and stacked.tolist() == [[0, 0, 0], [2, 2, 2]]


def test_numbers_that_are_not_finite_are_null():
    assert number(float("nan")) is None and number(np.inf) is None and number(np.float32(0.5)) == 0.5


def test_the_gain_over_the_nyquist_frequency_of_lr_follows_from_the_resolution():
    gain = gain_of(Pooled(5.0, 2.0, 1.5, np.array([1.0, 3.0]), 6), scale=4)
    assert (gain.value, gain.hr, gain.bias) == (pytest.approx(1.6), 4, pytest.approx(-0.6))
    assert gain.biases == pytest.approx([-0.5, -0.75]) and gain.units == 6
    assert gain_of(Pooled(2.0, 2.0, 0.0, None, None), scale=4) == Pooled(4.0, 4.0, 0.0, None, None)
