import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srgan_dist.evaluation import metrics
from srgan_dist.evaluation.metrics import relative_error_reduction
from srgan_dist.utils.errors import UserError

NAMES = ("mse", "psnr", "ssim", "spectrum_error", "mean_shift", "histogram_distance")
IMAGE, VOLUME = (64, 80), (24, 20, 32)


def of_one_image(metric):
    return lambda sr, hr: metric(sr[None], hr[None]).item()


mse, psnr, ssim, spectrum_error, mean_shift, histogram_distance = (
    of_one_image(getattr(metrics, name)) for name in NAMES
)
ssim_slices = of_one_image(metrics.ssim_slices)


def radial_log_power(image):
    return metrics.radial_log_power(image[None])[0]


def pair(seed=0, shape=IMAGE):
    rng = np.random.default_rng(seed)
    hr = np.clip(np.cumsum(rng.normal(0, 0.05, shape), axis=1) + 0.5, 0, 1)
    sr = np.clip(hr + rng.normal(0, 0.03, hr.shape), 0, 1)
    return torch.from_numpy(sr).float(), torch.from_numpy(hr).float()


def skimage_ssim(sr, hr):
    settings = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(sr.double().numpy(), hr.double().numpy(), **settings)


@pytest.mark.parametrize("shape", [IMAGE, VOLUME])
@pytest.mark.parametrize("seed", range(2))
def test_psnr_and_ssim_agree_with_an_independent_library(seed, shape):
    sr, hr = pair(seed, shape)
    reference = peak_signal_noise_ratio(hr.double().numpy(), sr.double().numpy(), data_range=1)
    assert psnr(sr, hr) == pytest.approx(reference, abs=1e-4)
    assert ssim(sr, hr) == pytest.approx(skimage_ssim(sr, hr), abs=1e-4)


def test_ssim_of_slices_is_the_mean_over_the_slices_along_z():
    sr, hr = pair(3, VOLUME)
    expected = np.mean([skimage_ssim(*images) for images in zip(sr, hr)])
    assert ssim_slices(sr, hr) == pytest.approx(expected, abs=1e-4)
    assert ssim_slices(sr, hr) != pytest.approx(ssim(sr, hr), abs=1e-3)


def test_psnr_on_unit_range_equals_peak_255_on_grey_levels():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 40, 40))
    expected = 10 * math.log10(255**2 / np.mean((a - b) ** 2.0))
    sr, hr = (torch.from_numpy(image).float() / 255 for image in (a, b))
    assert psnr(sr, hr) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (12, 14, 16)])
def test_known_values(shape):
    hr = torch.zeros(shape)
    assert psnr(hr + 0.1, hr) == pytest.approx(20, abs=1e-4)
    assert psnr(hr, hr) == 100  # instead of infinity, which JSON cannot hold
    assert mse(hr + 0.1, hr) == pytest.approx(0.01)
    _, image = pair(0, shape)
    assert ssim(image, image) == pytest.approx(1)
    # two flat images: contrast and structure are 1, luminance is (2ab + c1) / (a^2 + b^2 + c1)
    assert ssim(hr + 0.5, hr + 0.25) == pytest.approx((0.25 + 1e-4) / (0.3125 + 1e-4), abs=1e-5)


def test_relative_error_reduction():
    assert relative_error_reduction(0.25, 1.0) == 0.75
    assert relative_error_reduction(2.0, 1.0) == -1.0
    assert relative_error_reduction(0.0, 0.0) == 0.0


def test_images_that_bicubic_gets_right_do_not_outweigh_the_others_in_a_mean():
    blank, flat, normal = (1e-6, 1e-16), (1e-5, 1e-9), (0.005, 0.01)
    values = [relative_error_reduction(*errors) for errors in (blank, flat, normal)]
    assert values == [0.0, -1.0, 0.5]


@pytest.mark.parametrize("shape, rings", [((256, 200), 100), ((64, 48, 56), 24)])
def test_spectrum_of_white_noise_is_flat_at_its_variance(shape, rings):
    torch.manual_seed(0)
    power = radial_log_power(0.5 + 0.1 * torch.randn(shape))
    assert power.shape == (rings,)
    assert power[5:].mean().item() == pytest.approx(math.log(0.01), abs=0.05)


@pytest.mark.parametrize("cycles", [(20, 0), (0, 20), (12, 16), (9, 0, 0), (0, 9, 0), (0, 0, 9), (4, 4, 7)])
def test_a_plane_wave_has_its_power_at_its_own_frequency(cycles):
    side = 128 if len(cycles) == 2 else 32
    grid = torch.meshgrid(*[torch.arange(side) / side for _ in cycles], indexing="ij")
    wave = torch.sin(2 * math.pi * sum(count * x for count, x in zip(cycles, grid)))
    assert radial_log_power(wave).argmax().item() == round(math.hypot(*cycles)) - 1  # rings count from 1


def test_spectrum_error_worked_by_hand():
    _, hr = pair(1)
    centred = hr - hr.mean()
    assert spectrum_error(hr, hr) == 0
    assert spectrum_error(hr + 0.2, hr) == pytest.approx(0, abs=1e-3)  # the mean does not count
    assert spectrum_error(centred * 0.5, centred) == pytest.approx(2 * math.log(2), rel=1e-3)


@pytest.mark.parametrize("shape", [(128, 128), (48, 48, 48)])
def test_blur_raises_the_spectrum_error_and_matching_texture_does_not(shape):
    torch.manual_seed(0)
    hr, other = 0.5 + 0.1 * torch.randn(2, *shape)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    blurred = 0.5 + pool(hr[None, None] - 0.5, 5, 1, 2)[0, 0]
    assert psnr(blurred, hr) > psnr(other, hr)
    assert spectrum_error(other, hr) < 0.2 < 1 < spectrum_error(blurred, hr)


@pytest.mark.parametrize("shape, size", [((10, 40), "10x40"), ((40, 10, 40), "40x10x40")])
def test_ssim_refuses_images_smaller_than_its_window(shape, size):
    with pytest.raises(UserError, match=f"11 pixels or more along each axis, not {size}"):
        ssim(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 2)])
def test_mean_shift_and_histogram_distance_worked_by_hand(shape):
    hr = torch.tensor([0, 0, 100, 200]).view(shape) / 255
    # the same grey levels at other pixels, except for one that is 10 brighter
    sr = torch.tensor([200, 10, 100, 0]).view(shape) / 255
    assert mean_shift(sr, hr) == pytest.approx(100 * 2.5 / 255, abs=1e-4)
    assert histogram_distance(sr, hr) == pytest.approx(100 * 2.5 / 255, abs=1e-9)
    spread = torch.tensor([0.25, 0.75, 0.25, 0.75]).view(shape)
    assert mean_shift(spread, torch.full(shape, 0.5)) == 0
    assert histogram_distance(spread, torch.full(shape, 0.5)) == pytest.approx(25, abs=2e-3)
    assert histogram_distance(torch.ones(shape), torch.zeros(shape)) == 100


def test_histogram_distance_agrees_with_the_mean_distance_of_sorted_greys():
    torch.manual_seed(0)
    sr, hr = (torch.randint(0, 2**16, (2, 40, 50)) / (2**16 - 1)).unbind()
    sr = sr**1.3
    expected = 100 * (sr.flatten().sort().values - hr.flatten().sort().values).abs().mean()
    assert histogram_distance(sr, hr) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize(
    "name, shape", [*((name, s) for name in NAMES for s in (IMAGE, VOLUME)), ("ssim_slices", VOLUME)]
)
def test_images_of_a_batch_are_scored_each_by_itself(name, shape):
    sr, hr = (torch.stack(images) for images in zip(*(pair(seed, shape) for seed in range(3))))
    metric = getattr(metrics, name)
    scores = metric(sr, hr)
    assert scores.shape == (3,)
    for score, *images in zip(scores, sr, hr):
        assert score.item() == pytest.approx(metric(*(image[None] for image in images)).item(), rel=1e-5)
