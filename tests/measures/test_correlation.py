"""Known answers of correlations in space and by frequency."""

import itertools

import numpy as np
import pytest
from shapes import boolean_model

from srgan_dist.measures.correlation import (
    correlation_length,
    normalised,
    pairs_of,
    resolved_frequency,
    ring_correlation,
    ring_sums,
)


def s2_of(pore, r_max, valid=None):
    valid = np.ones(pore.shape, bool) if valid is None else valid
    return normalised(pairs_of(pore & valid, r_max), pairs_of(valid, r_max))


def test_two_points_of_a_small_image_counted_by_hand():
    rng = np.random.default_rng(0)
    pore, valid = rng.random((7, 6)) < 0.4, rng.random((7, 6)) < 0.8
    pairs, all_pairs = np.zeros((2, 4))
    for one in np.argwhere(valid):
        for two in np.argwhere(valid):
            distance = int(np.rint(np.sqrt(((one - two) ** 2).sum())))
            if distance <= 3 and abs(one - two).max() <= 3:
                all_pairs[distance] += 1
                pairs[distance] += pore[tuple(one)] and pore[tuple(two)]
    assert np.allclose(pairs_of(pore & valid, 3), pairs, atol=1e-3)
    assert np.allclose(pairs_of(valid, 3), all_pairs, atol=1e-3)


def test_two_points_of_a_checkerboard():
    # Two pixels (y, x) apart are of one colour where both or no axis crosses from one square into the next;
    # along an axis d of every 16 pairs do, of 640 pixels 39 d of 640 - d
    r_max, expected = 3, [[] for _ in range(4)]
    cells = np.kron(np.indices((40, 40)).sum(0) % 2, np.ones((16, 16))).astype(bool)
    for offset in itertools.product(range(-r_max, r_max + 1), repeat=2):
        y, x = (39 * abs(d) / (640 - abs(d)) for d in offset)
        distance = round(float(np.hypot(*offset)))
        if distance <= r_max:
            expected[distance].append(0.5 * (y * x + (1 - y) * (1 - x)))
    assert [len(values) for values in expected] == [1, 8, 12, 16]  # at distance 2: (0, 2) and (1, 2), turned
    s2, rho = s2_of(cells, r_max)
    assert s2 == pytest.approx([np.mean(values) for values in expected], abs=2e-4)
    assert s2[0] == pytest.approx(0.5, abs=1e-3) and rho[0] == pytest.approx(1)


@pytest.mark.parametrize("shape, radius, phi", [((700, 700), 12, 0.35), ((160, 160, 160), 15, 0.3)])
def test_two_points_of_overlapping_discs_and_spheres(shape, radius, phi):
    """S2(r) = phi^(union of two balls at r / ball), Torquato 2002, section 5.1."""
    pores = [boolean_model(shape, radius, phi, seed) for seed in range(3)]
    found = np.mean([s2_of(pore, 2 * radius + 8)[0] for pore in pores], axis=0)
    r = np.minimum(np.arange(len(found)) / (2 * radius), 1)
    if len(shape) == 2:
        union = 2 - 2 / np.pi * (np.arccos(r) - r * np.sqrt(1 - r**2))
    else:
        union = 1 + 1.5 * r - 0.5 * r**3
    expected = np.mean([pore.mean() for pore in pores]) ** union
    assert np.abs(found - expected)[1:].max() < 0.005 and abs(found - expected)[0] < 1e-3


def test_the_correlation_length():
    assert correlation_length(np.exp(-np.arange(20) / 5.5)) == 6
    assert correlation_length(np.ones(7)) == 7 and correlation_length(np.array([np.nan])) == 0


def test_ring_correlation_of_an_ideal_low_pass_falls_at_its_frequency():
    rng = np.random.default_rng(0)
    sums = 0
    for _ in range(3):
        hr = rng.random((200, 240))
        spectrum = np.fft.fft2(hr)
        radius = np.hypot(np.fft.fftfreq(200)[:, None], np.fft.fftfreq(240))
        blurred = np.fft.ifft2(np.where(radius < 0.2, spectrum, 0)).real
        sums = sums + ring_sums(blurred + 1e-3 * rng.random(hr.shape), hr)
    assert resolved_frequency(ring_correlation(sums)) == pytest.approx(0.2, abs=0.01)


def test_ring_correlation_of_noise_worked_by_hand():
    # HR plus noise of the same variance: correlation 1 / sqrt(2) at all frequencies
    rng = np.random.default_rng(1)
    hr, noise = rng.random((2, 60, 60, 60))
    curve = ring_correlation(ring_sums(hr + noise, hr))
    assert curve[5:].mean() == pytest.approx(2**-0.5, abs=0.01)
    assert resolved_frequency(curve) == 0.5 and resolved_frequency(curve, 0.9) < 0.1
    same = ring_correlation(ring_sums(hr, hr))
    assert np.allclose(same, 1) and resolved_frequency(same) == 0.5
