import numpy as np
import pytest
from scipy import ndimage
from shapes import ball
from skimage.filters import threshold_otsu

from srgan_dist.measures.segmentation import histogram, inside, median, otsu, pores_of


def test_otsu_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    image = np.concatenate([rng.normal(0.3, 0.05, 3000), rng.normal(0.7, 0.08, 9000)]).clip(0, 0.9999)
    counts = histogram(image)
    centres = (np.arange(256) + 0.5) / 256
    # scikit-image gives the centre of the last bin of the lower class, otsu the edge behind it
    assert otsu(counts) == pytest.approx(threshold_otsu(hist=(counts, centres)) + 0.5 / 256, abs=1e-9)


def test_otsu_between_two_levels_is_in_the_middle_and_of_one_level_is_none():
    counts = np.zeros(256)
    counts[[50, 200]] = 10, 30
    assert otsu(counts) == pytest.approx((51 + 200) / 2 / 256)
    assert otsu(np.eye(256)[7]) is None


def test_histogram_of_every_level_of_8_bits():
    assert np.array_equal(histogram(np.arange(256) / 255), np.ones(256))


def test_pores_are_dark_or_bright():
    image = np.array([0.2, 0.5, 0.8])
    assert pores_of(image, 0.5).tolist() == [True, False, False]
    assert pores_of(image, 0.5, "bright").tolist() == [False, False, True]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_median_takes_a_single_pixel_away_and_keeps_an_edge(ndim):
    image = np.zeros((9,) * ndim)
    image[5:] = 1
    noisy = image.copy()
    noisy[(2,) * ndim] = 1
    assert np.array_equal(median(noisy), image)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (301, 90), (1, 5, 4), (3, 300, 80), (20, 2, 9)])
def test_the_median_is_that_of_scipy(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    assert np.array_equal(median(image), ndimage.median_filter(image, 3, mode="mirror"))


def test_the_outside_of_a_round_plug_is_no_rock_and_a_saturated_pore_is():
    rng = np.random.default_rng(0)
    plug = ball(100, 45, 2)
    image = np.where(plug, rng.random((100, 100)), 0.0)
    image[40:60, 40:60] = 0.0
    found = inside(image)
    assert found[40:60, 40:60].all() and not found[:10, :10].any()
    assert (found ^ plug).mean() < 0.04
    noisy = np.where(plug, image, 0.1 * rng.random((100, 100)))
    assert inside(noisy).all()
    assert inside(rng.random((50, 50))).all() and not inside(np.full((30, 30), 0.4)).any()


@pytest.mark.parametrize("ndim, side", [(2, 200), (3, 100)])
def test_noisy_air_around_a_plug_is_left_out_where_it_is_said_to_be_there(ndim, side):
    rng = np.random.default_rng(0)
    plug = ball(side, 0.45 * side, 2)
    plug = np.broadcast_to(plug, (side,) * ndim).copy()  # a volume is a cylinder
    rock = plug.copy()
    rock[..., side // 2 - 12 : side // 2 + 12] = False  # a pore, wide, that ends at the plug's rim
    image = np.where(rock, 0.6, 0.15) + 0.05 * rng.standard_normal(plug.shape)
    found = inside(image.clip(0, 1), air=0.35)
    assert found[ball(side, 0.4 * side, 2) & np.ones_like(found)].all()
    assert (found[~plug]).mean() < 0.2 and inside(image).all()
    # A corner that is dark but small, and rock of one kind
    image = np.full((side,) * ndim, 0.6)
    image[(slice(0, side // 8),) * ndim] = 0.1
    assert inside(image + 0.01 * rng.standard_normal(image.shape), air=0.35).all()
    # Air alone, and rock alone with a bright mineral
    air = rng.normal(0.1, 0.02, image.shape)
    assert not inside(air, air=0.35).any()
    image = rng.normal(0.6, 0.02, image.shape)
    image[(slice(30, 60),) * ndim] += 0.3
    assert inside(image, air=0.35).all()
