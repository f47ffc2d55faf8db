"""Sums of images to values, biases and paired differences."""

import numpy as np
import pytest

from srgan_dist.measures.pooling import Pooled, alike, entry_of, gain_of, physical_unit, pool

COUNTS = {"images": 6, "sources": 6, "plugs": 1, "level": "source"}


def test_a_bias_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    sr, hr = np.array([[10.0, 100], [300, 300]]), np.array([[20.0, 100], [200, 300]])
    found = pool("porosity", sr, hr, None)
    assert (found.value, found.hr) == (310 / 400, 220 / 400)
    assert found.bias == pytest.approx(310 / 220 - 1) and found.biases is None
    assert entry_of("porosity", {"a": found}, "a", COUNTS)["interval"] is None


def test_a_paired_difference_is_decided_where_its_methods_alone_are_not():
    """Both methods vary much from image to image, one is always 1 % nearer to HR."""
    rng = np.random.default_rng(0)
    hr = np.stack([rng.uniform(50, 150, 12), np.full(12, 1000.0)], 1)
    errors = rng.uniform(1.0, 1.4, 12)
    units = [str(k) for k in range(12)]

    def pooled(factor):
        return pool("porosity", hr * np.stack([factor, np.ones(12)], 1), hr, units)

    found = {"far": pooled(errors + 0.01), "near": pooled(errors)}
    entry = entry_of("porosity", found, "near", COUNTS)
    paired = entry["against"]["far"]
    assert paired["difference"] == pytest.approx(-0.01) and paired["interval"][1] < 0
    low, high = entry["interval"]
    assert low < entry_of("porosity", found, "far", COUNTS)["bias"] < high
    assert entry_of("porosity", found, "far", COUNTS)["against"] == {}


def test_a_measure_of_sr_against_hr_itself_is_compared_with_the_perfect_value():
    found = pool("dice", np.array([[8.0, 10]]), None, None)
    assert (found.hr, found.bias) == (1, pytest.approx(-0.2))


def test_a_ratio_over_nothing_is_null():
    nothing = pool("porosity", np.zeros((1, 2)), np.zeros((1, 2)), None)
    entry = entry_of("porosity", {"a": nothing}, "a", COUNTS)
    assert entry["value"] is entry["hr"] is entry["bias"] is None


def test_the_gain_follows_from_the_resolution():
    gain = gain_of(Pooled(5.0, 2.0, 1.5, np.array([1.0, 3.0])), 4)
    assert (gain.value, gain.hr, gain.bias) == (pytest.approx(1.6), 4, pytest.approx(-0.6))
    assert gain.biases == pytest.approx([-0.5, -0.75]) and gain_of(Pooled(2, 2, 0, None), 4).biases is None


@pytest.mark.parametrize(
    "unit, size, expected",
    [
        ("px", None, ("px", 1)),
        ("1/px^n", None, ("1/px3", 1)),
        ("px^2", None, ("px2", 1)),
        ("px", 2.0, ("um", 2)),
        ("1/px", 2.0, ("1/um", 0.5)),
        ("1/px^n", 2.0, ("1/um3", 0.125)),
        ("px^2", 1.0, ("mD", pytest.approx(1013.25, rel=1e-4))),  # one square micrometre
        ("dB", 2.0, ("dB", 1)),
    ],
)
def test_units(unit, size, expected):
    assert physical_unit(unit, 3, size) == expected


def test_the_commonest_length_is_pooled():
    places, found = alike([np.zeros(3), np.ones(4), np.ones(4)])
    assert places == [1, 2] and found.shape == (2, 4)
