"""The protocol on pairs of images whose measures are counted by hand."""

import numpy as np
import pytest
from shapes import ball

from srgan_dist.evaluation.report_page.words import physical
from srgan_dist.measures.correlation import pairs_of
from srgan_dist.measures.protocol import MEASURES, Reference
from srgan_dist.measures.segmentation import SWEEP, median

PORE, ROCK = 0.1, 0.9


def invented(hr, sr, phase="dark"):
    """Return (percent, sums) of SR's invented pores; the same in both forms."""
    images = (hr, sr) if phase == "dark" else (1 - hr, 1 - sr)
    found = Reference(images[0], 0.5, phase).measure(images[1])
    assert np.array_equal(found["raw"]["invented_pores"], found["median"]["invented_pores"])
    sums = found["raw"]["invented_pores"]
    return MEASURES["invented_pores"].value(sums), sums.tolist()


def noisy(image):
    """Return an image with a little noise: areas of one grey level at the border are outside of a plug."""
    return image + np.random.default_rng(0).uniform(-0.01, 0.01, image.shape)


def grain(ndim, side=41):
    """Return (HR of a disc or ball of rock in a pore, a copy of it)."""
    hr = noisy(np.where(ball(side, 0.45 * side, ndim), ROCK, PORE))
    return hr, hr.copy()


@pytest.mark.parametrize("phase", ["dark", "bright"])
@pytest.mark.parametrize("ndim, area", [(2, 3 * 9 - 4), (3, 5 * (9 - 2) + 2)])
def test_a_stroke_on_a_grain_is_an_invented_pore(ndim, area, phase):
    # Of a stroke of 3 x 9 pixels the median takes the corners, of 3 x 3 x 9 the edges: of the 5 lines that
    # are left, 4 end a voxel earlier at both ends
    hr, sr = grain(ndim)
    sr[(slice(19, 22),) * (ndim - 1) + (slice(16, 25),)] = PORE
    percent, (pores, deep) = invented(hr, sr, phase)
    assert pores == area and percent == pytest.approx(100 * area / deep)
    assert invented(hr, hr, phase)[0] == 0


def test_grains_are_counted_from_more_than_three_pixels_below_their_rim():
    hr = noisy(np.full((30, 40), ROCK))
    hr[:, :10] -= ROCK - PORE
    for first, counted in ((10, 0), (11, 9 - 2), (12, 2 * 9 - 2), (13, 3 * 9 - 4)):
        sr = hr.copy()
        sr[10:19, first : first + 3] = PORE  # columns 10, 11, 12 are the rim
        _, (pores, deep) = invented(hr, sr)
        assert (pores, deep) == (counted, 30 * 27), first
    everywhere = noisy(np.full_like(hr, ROCK))
    assert invented(everywhere, everywhere)[1] == [0, hr.size]  # the border is no rim


def test_a_single_dark_pixel_is_no_invented_pore_and_neither_is_a_missed_one():
    hr, sr = grain(2)
    sr[20, 20] = PORE
    assert sr[20, 20] < 0.5 and invented(hr, sr) == invented(hr, hr)
    assert invented(hr, hr)[0] == invented(hr, np.full_like(hr, ROCK))[0] == 0


def test_the_outside_of_a_plug_has_no_invented_pores():
    rng = np.random.default_rng(0)
    plug = ball(120, 45, 2)
    hr = np.where(plug, ROCK + 0.02 * rng.standard_normal(plug.shape), ROCK)
    dark_outside = np.where(plug, hr, PORE)
    assert invented(hr, dark_outside)[0] == 0


# Curves and correlations


@pytest.mark.parametrize("phase", ["dark", "bright"])
def test_the_threshold_sweep_of_a_ramp(phase):
    # Grey levels evenly from 0 to 1: what is darker than a threshold is the threshold
    ramp = np.tile((np.arange(200) + 0.5) / 200, (20, 1))
    reference = Reference(ramp, 0.5, phase)
    darker = [0.425, 0.45, 0.475, 0.5, 0.525, 0.55, 0.575]
    assert [0.5 * factor for factor in SWEEP] == pytest.approx(darker)
    for found in (reference.own(), reference.measure(ramp)):
        *pores, area = found["raw"]["threshold_sweep"]
        assert area == ramp.size
        assert np.array(pores) / area == pytest.approx(darker if phase == "dark" else 1 - np.array(darker))


def rho_by_pairs(pore, r_max):
    """Return the normalised two-point correlation, every pair of pixels counted."""
    places = np.argwhere(np.ones_like(pore))
    distance = np.rint(np.sqrt(((places[:, None] - places) ** 2).sum(-1))).astype(int)
    both = np.outer(pore.ravel(), pore.ravel())
    s2 = np.array([both[distance == r].mean() for r in range(r_max + 1)])
    return (s2 - s2[0] ** 2) / (s2[0] - s2[0] ** 2)


def two_point_error(hr, sr):
    sums = Reference(np.where(hr, PORE, ROCK), 0.5).measure(np.where(sr, PORE, ROCK))["raw"]
    return MEASURES["two_point_error"].value(sums["two_point_error"])


def test_the_two_point_error_is_the_mean_distance_of_two_curves():
    rng = np.random.default_rng(0)
    hr, sr = rng.random((12, 12)) < 0.4, rng.random((12, 12)) < 0.3
    expected = np.abs(rho_by_pairs(sr, 11) - rho_by_pairs(hr, 11)).mean()
    assert two_point_error(hr, sr) == pytest.approx(expected, rel=1e-4) and expected > 0.02
    # It knows no places: an image that is turned has no error
    assert two_point_error(hr, np.rot90(hr)) == pytest.approx(0, abs=1e-6)


def low_pass(image, frequency):
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    return np.fft.ifft2(np.where(radius < frequency, np.fft.fft2(image), 0)).real


def resolution(sums):
    return MEASURES["frc_resolution"].value(sums["raw"]["frc_resolution"])


def test_the_resolution_of_an_ideal_low_pass_in_micrometres():
    # Up to a fifth of a cycle per pixel is a period of 5 pixels, at 2.5 um each 12.5 um
    rng = np.random.default_rng(0)
    hr = rng.random((300, 300))
    found = resolution(Reference(hr, None).measure(low_pass(hr, 0.2) + 1e-3 * rng.random(hr.shape)))
    factor, unit = physical(MEASURES["frc_resolution"].unit, 2, 2.5)
    assert factor * found == pytest.approx(12.5, rel=0.05) and unit == "\N{MICRO SIGN}m"


# The outside of a plug


def test_ring_correlation_of_a_round_plug_is_that_of_its_rock():
    rng = np.random.default_rng(0)
    rock = 0.5 + 0.1 * rng.standard_normal((300, 300))
    sr, plug = low_pass(rock, 0.2) + 0.01 * rng.standard_normal(rock.shape), ball(300, 120, 2)
    expected = resolution(Reference(rock, None).measure(sr))
    for outside in (0.0, 0.9):
        reference = Reference(np.where(plug, rock, outside), None)
        assert resolution(reference.measure(np.where(plug, sr, outside))) == pytest.approx(expected, rel=0.03)
        # What SR draws where there is nothing has no part
        wrong = np.where(reference.valid, reference.hr, rng.random(rock.shape))
        assert resolution(reference.measure(wrong)) == 2


def test_two_points_of_hr_are_those_of_each_form():
    hr = np.where(np.random.default_rng(0).random((40, 40)) < 0.3, PORE, ROCK)
    reference = Reference(hr, 0.5)
    for found in (reference.own(), reference.measure(hr)):
        for form, image in (("raw", hr), ("median", median(hr))):
            pairs, all_pairs = found[form]["two_point"].reshape(2, -1)
            expected = pairs_of(image < 0.5, len(pairs) - 1)
            assert np.allclose(pairs, expected) and pairs[0] == pytest.approx((image < 0.5).sum())
            assert np.allclose(all_pairs, pairs_of(np.ones(hr.shape, bool), len(pairs) - 1))
