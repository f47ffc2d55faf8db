import numpy as np
import pytest
from scipy import ndimage

from srgan_dist.data.degradation import (
    KERNELS,
    UNKNOWN_KERNELS,
    ScanLike,
    blur,
    downsample,
    draw_kernel,
    resize,
    scan_like,
    upsample,
)
from srgan_dist.data.image_files import read_image


def weights_of_lr_pixel(kernel, scale, pixel=8, size=64):
    """The weight of every HR pixel of a row in one LR pixel, read off impulses."""
    impulses = np.eye(size)
    return resize(impulses, (size, size // scale), kernel)[:, pixel]


def test_bilinear_x2_is_a_triangle_over_four_pixels():
    weights = weights_of_lr_pixel("bilinear", 2)
    assert weights[15:19] == pytest.approx(np.array([1, 3, 3, 1]) / 8)
    assert np.abs(weights).sum() == pytest.approx(1)


def test_bicubic_x2_weights_worked_by_hand():
    # Keys' kernel with a = -0.5 at 1/4, 3/4, 5/4, 7/4, halved because it is stretched to twice its width
    half = np.array([0.8671875, 0.2265625, -0.0703125, -0.0234375]) / 2
    assert weights_of_lr_pixel("bicubic", 2)[13:21] == pytest.approx([*half[::-1], *half])


def test_lanczos_weights_follow_the_windowed_sinc():
    for kernel, lobes in (("lanczos2", 2), ("lanczos3", 3)):
        distance = (np.arange(64) - 33.5) / 4  # LR pixel 8 is at HR position 33.5
        expected = np.sinc(distance) * np.sinc(distance / lobes) * (np.abs(distance) < lobes)
        assert weights_of_lr_pixel(kernel, 4) == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_box_is_the_mean_of_blocks(scale):
    image = np.random.default_rng(0).integers(0, 65536, (6 * scale, 4 * scale), dtype=np.uint16)
    means = image.reshape(6, scale, 4, scale).mean(axis=(1, 3))
    assert np.array_equal(downsample(image, scale, "box"), np.floor(means + 0.5))


def test_borders_are_mirrored():
    image = np.random.default_rng(1).integers(0, 256, (24, 24), dtype=np.uint8)
    mirrored = np.pad(image, 24, mode="symmetric")
    for kernel in KERNELS:
        assert np.array_equal(downsample(image, 4, kernel), downsample(mirrored, 4, kernel)[6:12, 6:12])


def test_rounding_happens_once():
    # the mean of a block is 1/4; rounded after the first pass it would be 1/2, and then 1
    blocks = np.tile(np.array([[0, 1], [0, 0]], np.uint8), (8, 8))
    assert np.unique(downsample(blocks, 2, "box")).tolist() == [0]


def test_overshoot_is_clipped_to_the_range_of_the_type():
    edge = np.zeros((32, 32), np.uint8)
    edge[:, 16:] = 255
    assert resize(edge, (8, 8), "lanczos3").min() < 0 and resize(edge, (8, 8), "lanczos3").max() > 255
    lr = downsample(edge, 4, "lanczos3")
    assert lr.dtype == np.uint8 and lr.min() == 0 and lr.max() == 255


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [2, 4])
def test_a_flat_image_stays_flat(kernel, scale):
    image = np.full((40, 48), 1234, np.uint16)
    assert np.unique(downsample(image, scale, kernel)).tolist() == [1234]
    assert upsample(image, scale) == pytest.approx(1234)


def test_enlarging_keeps_half_integer_centres():
    ramp = np.tile(np.arange(20, dtype=np.uint8) * 10, (20, 1))
    inner = upsample(ramp, 4)[8, 12:-12]  # away from the mirrored borders bicubic is exact on a line
    expected = ((np.arange(80) + 0.5) / 4 - 0.5) * 10
    assert inner == pytest.approx(expected[12:-12])


@pytest.mark.parametrize("scale", [2, 3])
def test_in_a_volume_box_is_the_mean_of_cubes(scale):
    volume = np.random.default_rng(0).integers(0, 65536, (2 * scale, 3 * scale, 4 * scale), dtype=np.uint16)
    means = volume.reshape(2, scale, 3, scale, 4, scale).mean(axis=(1, 3, 5))
    assert np.array_equal(downsample(volume, scale, "box"), np.floor(means + 0.5))


@pytest.mark.parametrize("kernel", KERNELS)
def test_slices_that_are_all_alike_are_resized_as_one(kernel):
    image = np.random.default_rng(2).integers(0, 256, (18, 24)).astype(np.uint8)
    for axis in range(3):
        volume = np.repeat(np.expand_dims(image, axis), 12, axis)
        small = downsample(volume, 2, kernel)
        assert np.array_equal(small, np.repeat(np.expand_dims(downsample(image, 2, kernel), axis), 6, axis))
        large = np.repeat(np.expand_dims(upsample(image, 2, kernel), axis), 24, axis)
        np.testing.assert_allclose(upsample(volume, 2, kernel, ndim=3), large, atol=1e-9)


def test_axes_before_those_that_are_resized_are_a_batch():
    images = np.random.default_rng(3).integers(0, 256, (2, 3, 12, 16)).astype(np.uint8)
    one_by_one = [[resize(image, (5, 9), "bicubic") for image in row] for row in images]
    assert np.array_equal(resize(images, (5, 9), "bicubic"), one_by_one)
    assert np.array_equal(upsample(images, 2, ndim=3), [upsample(volume, 2, ndim=3) for volume in images])


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="10x8 pixels is not a multiple of scale=4"):
        downsample(np.zeros((10, 8), np.uint8), 4)
    with pytest.raises(ValueError, match="8x9x8 pixels is not a multiple of scale=4"):
        downsample(np.zeros((8, 9, 8), np.uint8), 4)


def test_the_draw_of_a_kernel_depends_on_seed_and_key_alone():
    keys = [f"rock_{i}" for i in range(400)]
    draws = [draw_kernel("unknown", 0, key) for key in keys]
    assert draws == [draw_kernel("unknown", 0, key) for key in keys]
    assert draws != [draw_kernel("unknown", 1, key) for key in keys]
    assert all(60 < draws.count(kernel) < 140 for kernel in UNKNOWN_KERNELS)
    assert draw_kernel("default", 0, "rock_1") == "bicubic"
    with pytest.raises(ValueError, match="kind='other'"):
        draw_kernel("other", 0, "rock_1")


@pytest.mark.rocks
@pytest.mark.parametrize(
    "split, number, kernel", [("train", "0001", "lanczos2"), ("valid", "3201", "lanczos3")]
)
def test_genuine_deeprock_pairs_are_reproduced(rocks, split, number, kernel):
    folder = rocks / "deeprock_sr" / "DeepRockSR-2D" / "carbonate2D"
    hr = read_image(folder / f"carbonate2D_{split}_HR" / f"{number}.png")
    lr = read_image(folder / f"carbonate2D_{split}_LR_unknown_X4" / f"{number}x4.png")
    difference = np.abs(downsample(hr, 4, kernel).astype(int) - lr)
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.94
    others = [name for name in KERNELS if name != kernel]
    assert all((downsample(hr, 4, name) == lr).mean() < 0.90 for name in others)


@pytest.mark.parametrize("shape, scale", [((48, 60), 4), ((30, 36, 42), 3), ((24, 24, 32), 2)])
def test_blur_is_a_gaussian_sampled_at_lr_centres(shape, scale):
    """Against scipy's filter, at HR voxels for an odd scale and between two for an even one."""
    hr = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    blurred = ndimage.gaussian_filter(hr.astype(float), 3.0, mode="reflect", truncate=6)
    centres = np.meshgrid(*[(np.arange(n // scale) + 0.5) * scale - 0.5 for n in shape], indexing="ij")
    expected = ndimage.map_coordinates(blurred, centres, order=5, mode="reflect")
    assert np.abs(blur(hr, scale, 3.0) - expected).max() < 0.05


def test_blur_of_a_ramp_is_the_ramp_at_the_shifted_centres():
    ramp = np.add.outer(2.0 * np.arange(80), 3.0 * np.arange(96))
    rows, columns = (np.arange(n // 4) * 4 + 1.5 for n in ramp.shape)
    expected = np.add.outer(2 * (rows + 0.7), 3 * (columns - 1.2))
    assert np.abs(blur(ramp, 4, 2.0, (0.7, -1.2)) - expected)[4:-4, 4:-4].max() < 1e-3


def test_lr_like_a_scan_has_the_given_gain_offset_and_noise():
    hr = np.full((64, 64, 64), 100, np.uint8)
    lr = scan_like(hr, 2, ScanLike(2.0, 5.0, 0.9, 20.0), 0, "coal_1")
    assert lr.dtype == np.uint8 and lr.shape == (32, 32, 32)
    assert lr.mean() == pytest.approx(110, abs=0.2) and lr.std() == pytest.approx(5, abs=0.1)
    assert np.array_equal(lr, scan_like(hr, 2, ScanLike(2.0, 5.0, 0.9, 20.0), 0, "coal_1"))
    for seed, key in ((1, "coal_1"), (0, "coal_2")):
        assert not np.array_equal(lr, scan_like(hr, 2, ScanLike(2.0, 5.0, 0.9, 20.0), seed, key))
    bright = scan_like(hr.astype(np.uint16) * 600, 2, ScanLike(2.0, 0, 2.0), 0, "coal_1")
    assert bright.dtype == np.uint16 and bright.min() == 65535  # clipped, not wrapped around
