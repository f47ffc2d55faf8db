"""Resampling in cases whose answer is known."""

import numpy as np
import pytest

from srgan_dist.measures.statistics import (
    interval,
    resample_weights,
    separate_blocks,
    sums_of_units,
)


def test_the_spread_of_resampled_means_is_the_standard_error_of_units():
    values = np.random.default_rng(0).normal(0, 1, 40)
    means = resample_weights(40) @ values / 40
    assert means.std() == pytest.approx(values.std() / 40**0.5, rel=0.05)
    # Copies of an image in one unit tell nothing new
    copies = sums_of_units(np.repeat(values, 10)[:, None], np.repeat(np.arange(40) + 100, 10))
    assert copies[:, 0] == pytest.approx(10 * values)


@pytest.mark.parametrize("count", [5, 9])
def test_intervals_of_few_units_cover_the_truth_about_as_often_as_they_say(count):
    rng, weights = np.random.default_rng(count), resample_weights(count) / count

    def coverage(draw, truth):
        covered = 0
        for _ in range(1000):
            values = draw(count)
            low, high = interval(weights @ values, values.mean(), count)
            covered += low <= truth <= high
        return covered / 1000

    assert 0.92 < coverage(rng.standard_normal, 0) < 0.97
    assert 0.85 < coverage(rng.standard_exponential, 1) < 0.95  # skewed: a few units seldom show the tail


def test_the_interval_of_five_units_worked_by_hand():
    # t of 4 degrees of freedom is 2.776: percentiles are moved away by 2.776 / 1.96 * sqrt(5 / 4) = 1.584
    low, high = interval(np.linspace(0, 1, 1001), 0.5, 5)
    assert low == pytest.approx(0.5 - 1.584 * 0.475, abs=1e-3) and high == pytest.approx(1 - low)
    assert interval(np.linspace(0, 1, 1001), 0.5, 10**6) == pytest.approx([0.025, 0.975], abs=1e-4)
    # An estimate beside its resamples makes no interval narrower
    assert interval(np.linspace(0, 1, 1001), -1, 5)[0] == pytest.approx(0.025)
    assert interval([0.0, np.nan], 0.0, 5) is None and interval([0.0, 1.0], np.nan, 5) is None


def test_blocks_that_overlap_or_join_in_a_chain_are_one():
    corners = [(0, 0), (0, 90), (0, 180), (0, 300), (100, 0)]
    numbers = separate_blocks(corners, (100, 100))
    assert numbers[0] == numbers[1] == numbers[2] and len(set(numbers)) == 3
    assert len(set(separate_blocks([(0, 0), (0, 100), (100, 100)], (100, 100)))) == 3
    assert separate_blocks([(5, 5)], (1, 1)).tolist() == [0]
