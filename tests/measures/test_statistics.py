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


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    weights = resample_weights(20) / 20
    for _ in range(300):
        low, high = interval(weights @ rng.exponential(1, 20))
        covered += low <= 1 <= high
    assert 0.85 < covered / 300 < 0.97  # percentiles of 20 skewed values cover somewhat less than 95 %


def test_blocks_that_overlap_or_join_in_a_chain_are_one():
    corners = [(0, 0), (0, 90), (0, 180), (0, 300), (100, 0)]
    numbers = separate_blocks(corners, (100, 100))
    assert numbers[0] == numbers[1] == numbers[2] and len(set(numbers)) == 3
    assert len(set(separate_blocks([(0, 0), (0, 100), (100, 100)], (100, 100)))) == 3
    assert separate_blocks([(5, 5)], (1, 1)).tolist() == [0]
