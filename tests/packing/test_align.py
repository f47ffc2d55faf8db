"""Registration: known shifts, gains and blurs are found; pairs are cut to their overlap."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from srgan_dist.data.degradation import ScanLike, blur, downsample, scan_like, upsample
from srgan_dist.packing.align import find_shift, overlap

VOLUMES = os.environ.get("SRGAN_DIST_VOLUMES")


def rock(seed, shape):
    """Grains of two phases with a little texture, uint8."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 3, mode="wrap")
    grains = 90 + 80 * (smooth > 0) + 20 * ndimage.gaussian_filter(noise, 1, mode="wrap")
    return ndimage.gaussian_filter(grains, 0.8).round().clip(0, 255).astype(np.uint8)


def scanned(hr, scale, shift, sigma, gain=1.0, offset=0.0, noise=0.0):
    """The LR image of another scan: blurred, shifted by any fraction, with its own grey levels."""
    lr = gain * blur(hr, scale, sigma, shift) + offset
    lr += np.random.default_rng(1).normal(0, noise, lr.shape)
    return lr.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "shape, scale, shift",
    [
        ((96, 96, 96), 4, (0.0, 0.0, 0.0)),
        ((96, 96, 96), 4, (1.37, -2.61, 0.25)),
        ((72, 90, 81), 3, (-6.4, 3.15, 9.8)),
        ((96, 64, 80), 2, (0.5, -0.5, 5.05)),
        ((600, 660), 6, (13.3, -7.45)),
        ((960, 800), 8, (-20.2, 4.4)),
    ],
)
def test_known_shifts_blurs_and_grey_levels_are_found(shape, scale, shift):
    hr = rock(0, shape)
    lr = scanned(hr, scale, shift, 1.1 * scale, gain=0.9, offset=20, noise=2)
    found = find_shift(hr, lr, scale)
    assert np.abs(np.subtract(found.shift, shift)).max() < 0.05
    assert found.blur_sigma == pytest.approx(1.1 * scale, rel=0.05)
    assert found.gain == pytest.approx(0.9, rel=0.05) and found.offset == pytest.approx(20, abs=5)
    assert found.residual == pytest.approx(2, abs=0.2) and found.correlation > 0.95


@pytest.mark.parametrize("scale, shift", [(6, (-3.3, 1.45, 7.8)), (8, (4.7, -9.6, 0.85))])
def test_small_volumes_are_registered_at_large_scales(scale, shift):
    """Of a thousand LR voxels with noise: to a twentieth of one."""
    hr = rock(0, (12 * scale, 11 * scale, 10 * scale))
    lr = scanned(hr, scale, shift, 1.1 * scale, gain=0.9, offset=20, noise=1)
    found = find_shift(hr, lr, scale)
    assert np.abs(np.subtract(found.shift, shift)).max() < 0.05 * scale
    assert found.blur_sigma == pytest.approx(1.1 * scale, rel=0.05)
    assert found.gain == pytest.approx(0.9, rel=0.05) and found.correlation > 0.95


def test_a_shift_of_whole_voxels_by_cropping_is_found():
    """Not made by the model that is fitted: blurred by scipy, averaged over voxels, then cut elsewhere."""
    whole = rock(2, (120, 120, 120))
    low = downsample(ndimage.gaussian_filter(whole, 3.0), 4, "box")
    found = find_shift(whole[5:101, 1:97, 8:104], low[1:25, 1:25, 1:25], 4)
    assert np.abs(np.subtract(found.shift, (-1, 3, -4))).max() < 0.05


def test_a_known_registration_agrees():
    hr = rock(3, (120, 120, 120))
    lr = scanned(hr, 3, (2.2, -1.3, 0.7), 2.5)
    coarse = downsample(hr, 3, "box").astype(float)
    known, *_ = phase_cross_correlation(coarse - coarse.mean(), lr - lr.mean(), upsample_factor=50)
    assert np.abs(3 * known - find_shift(hr, lr, 3).shift).max() < 0.3  # that of the peak is the less exact


def test_what_cannot_be_registered_is_refused():
    with pytest.raises(ValueError, match="7x25 LR voxels are too few; 8 per axis"):
        find_shift(rock(0, (28, 100)), rock(0, (7, 25)), 4)
    with pytest.raises(ValueError, match="one side has a single grey level"):
        find_shift(rock(0, (64, 64)), np.zeros((16, 16), np.uint8), 4)
    assert abs(find_shift(rock(0, (96, 96, 96)), rock(1, (24, 24, 24)), 4).correlation) < 0.5


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-4, 8), (-1, 1)])
@pytest.mark.parametrize("lr_shape", [(10, 12), (9, 14)])
def test_the_overlap_shows_one_place_and_is_the_largest(shift, lr_shape):
    hr_shape, scale = (40, 48), 4
    found = overlap(hr_shape, lr_shape, scale, shift)
    for axis in range(2):
        first, last = found.hr_corner[axis], found.hr_corner[axis] + scale * found.lr_shape[axis]
        assert first == scale * found.lr_corner[axis] + shift[axis]
        assert 0 <= first < last <= hr_shape[axis] and found.lr_corner[axis] >= 0
        ends = found.lr_corner[axis] + found.lr_shape[axis]
        assert first < scale or found.lr_corner[axis] == 0
        assert hr_shape[axis] - last < scale or ends == lr_shape[axis]


def test_scans_that_do_not_overlap_are_refused():
    with pytest.raises(ValueError, match=r"nothing is left of both after a shift of \(40, 0\) HR voxels"):
        overlap((40, 48), (10, 12), 4, (40, 0))


@pytest.fixture
def core():
    """A sandstone core scanned twice, x3: HR and LR volume."""
    sides = [np.load(Path(VOLUMES) / f"sandstone_scanned_x3_{side}.npy") for side in ("hr", "lr")]
    return sides


@pytest.mark.volumes
def test_a_real_pair_is_registered(core):
    found = find_shift(*core, 3)
    assert np.abs(np.add(found.shift, (1.3, 1.0, 0.9))).max() < 0.4
    assert 3.2 < found.blur_sigma < 3.6 and 0.9 < found.gain < 1.05
    assert found.correlation > 0.98 and found.residual < 4


@pytest.mark.volumes
def test_made_lr_is_nearer_to_the_true_one_than_that_of_imresize(core):
    hr, lr = core
    found = find_shift(hr, lr, 3)
    scanner = ScanLike(found.blur_sigma, found.residual, found.gain, found.offset)
    assert psnr(downsample(hr, 3), lr) < 24 and psnr(scan_like(hr, 3, scanner, 0, "core"), lr) > 31
    gap = psnr(upsample(downsample(hr, 3), 3, ndim=3), hr) - psnr(upsample(lr, 3, ndim=3), hr)
    made = psnr(upsample(scan_like(hr, 3, scanner, 0, "core"), 3, ndim=3), hr) - psnr(
        upsample(lr, 3, ndim=3), hr
    )
    assert gap > 5 and abs(made) < 0.6


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))
