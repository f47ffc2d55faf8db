"""The public functions for images, on images whose measures are known."""

import numpy as np
import pytest
from conftest import texture

import srgan_dist
from srgan_dist import UserError


def discs(dtype=np.uint8, radius=50):
    """Draw four dark discs on a bright square of 400 pixels."""
    y, x = np.mgrid[:400, :400] % 200 - 99.5
    peak = np.iinfo(dtype).max
    return np.where(x**2 + y**2 < radius**2, peak // 10, peak - peak // 10).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_measures_of_discs(dtype):
    image = discs(dtype)
    threshold = srgan_dist.otsu_threshold(image, image[:9])
    assert 0.4 < threshold < 0.6
    found = srgan_dist.rock_measures(image, threshold)
    area, side = np.pi * 50**2, 200
    assert found.porosity == pytest.approx(area / side**2, rel=0.01)
    assert found.specific_interface == pytest.approx(2 * np.pi * 50 / side**2, rel=0.02)
    assert found.chord_length == pytest.approx(np.pi / 2 * 50, rel=0.02)  # the mean chord of a disc
    assert found.euler_density == pytest.approx(4 / 400**2, rel=0.01)
    assert found.two_point[0] == pytest.approx(found.porosity) and found.two_point.shape == (101,)
    bright = srgan_dist.rock_measures(image, threshold, phase="bright")
    assert bright.porosity == pytest.approx(1 - found.porosity)


def test_pores_without_order_are_not_correlated():
    image = (np.random.default_rng(0).random((300, 300)) * 255).astype(np.uint8)
    s2 = srgan_dist.rock_measures(image, 0.3).two_point
    assert s2[0] == pytest.approx(0.3, abs=0.01) and s2[1:] == pytest.approx(s2[0] ** 2, abs=2e-3)


def test_lengths_take_the_voxel_size():
    pixels = srgan_dist.rock_measures(discs(), 0.5)
    microns = srgan_dist.rock_measures(discs(), 0.5, voxel_size_um=2.5)
    assert microns.porosity == pixels.porosity and np.array_equal(microns.two_point, pixels.two_point)
    assert microns.specific_interface == pytest.approx(pixels.specific_interface / 2.5)
    assert microns.chord_length == pytest.approx(2.5 * pixels.chord_length)
    assert microns.euler_density == pytest.approx(pixels.euler_density / 2.5**2)
    assert microns.distances[-1] == 250


def test_a_volume_and_a_mask():
    volume = np.full((20, 20, 20), 200, np.uint8)
    volume[:10] = 20
    found = srgan_dist.rock_measures(volume, 0.5)
    assert found.porosity == 0.5 and found.specific_interface == pytest.approx(1 / 20, rel=0.05)
    inside = np.zeros(volume.shape, bool)
    inside[:12] = True
    assert srgan_dist.rock_measures(volume, 0.5, inside=inside).porosity == pytest.approx(10 / 12)


def test_bicubic_is_the_baseline_of_the_scores():
    for shape, dtype in (((10, 12), np.uint8), ((5, 6, 7), np.uint16)):
        constant = np.full(shape, 77, dtype)
        enlarged = srgan_dist.bicubic(constant, 4)
        assert enlarged.dtype == dtype and enlarged.shape == tuple(4 * n for n in shape)
        assert (enlarged == 77).all()
    lr = texture(3, 18, 20)
    from srgan_dist.evaluation.scoring import bicubic

    assert np.abs(srgan_dist.bicubic(lr, 2) / 255 - bicubic(lr, 2).numpy()).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda image: srgan_dist.bicubic(image, 5), "scale=5 must be one of 2, 3, 4, 6, 8"),
        (lambda image: srgan_dist.bicubic(image / 255, 4), "lr has dtype float64 and shape"),
        (lambda image: srgan_dist.otsu_threshold(), "one image or more"),
        (lambda image: srgan_dist.otsu_threshold(image * 0), "one grey level"),
        (lambda image: srgan_dist.rock_measures(image, 100), "threshold=100 must be a share"),
        (lambda image: srgan_dist.rock_measures(image, float("nan")), "threshold=nan must be"),
        (lambda image: srgan_dist.rock_measures(image, 0.5, phase="black"), "phase='black' must be"),
        (
            lambda image: srgan_dist.rock_measures(image, 0.5, voxel_size_um=0),
            "voxel_size_um=0 must be one number above 0",
        ),
        (lambda image: srgan_dist.rock_measures(image[..., None, None], 0.5), "image has dtype uint8"),
        (lambda image: srgan_dist.rock_measures(image, 0.5, inside=image > 300), "0 pixels that count"),
    ],
)
def test_what_cannot_be_measured_is_named(call, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.").replace("(", r"\(")):
        call(discs())
