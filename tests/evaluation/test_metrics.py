import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srgan_dist.evaluation import metrics
from srgan_dist.evaluation.metrics import radial_log_power, relative_error_reduction


def of_one_image(metric):
    return lambda sr, hr: metric(sr, hr).item()


histogram_distance, mean_shift, mse, psnr, spectrum_error, ssim = map(
    of_one_image,
    (
        metrics.histogram_distance,
        metrics.mean_shift,
        metrics.mse,
        metrics.psnr,
        metrics.spectrum_error,
        metrics.ssim,
    ),
)


def pair(seed=0, height=64, width=80):
    rng = np.random.default_rng(seed)
    hr = np.clip(np.cumsum(rng.normal(0, 0.05, (height, width)), axis=1) + 0.5, 0, 1)
    sr = np.clip(hr + rng.normal(0, 0.03, hr.shape), 0, 1)
    return torch.from_numpy(sr).float(), torch.from_numpy(hr).float()


@pytest.mark.parametrize("seed", range(4))
def test_psnr_and_ssim_agree_with_an_independent_library(seed):
    sr, hr = pair(seed)
    a, b = sr.double().numpy(), hr.double().numpy()
    assert psnr(sr, hr) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-4)
    reference = structural_similarity(
        a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(sr, hr) == pytest.approx(reference, abs=1e-4)


def test_psnr_on_unit_range_equals_peak_255_on_grey_levels():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 40, 40))
    expected = 10 * math.log10(255**2 / np.mean((a - b) ** 2.0))
    assert psnr(torch.from_numpy(a).float() / 255, torch.from_numpy(b).float() / 255) == pytest.approx(
        expected, abs=1e-4
    )


def test_known_values():
    hr = torch.zeros(32, 32)
    assert psnr(hr + 0.1, hr) == pytest.approx(20, abs=1e-4)
    assert psnr(hr, hr) == 100  # instead of infinity, which JSON cannot hold
    assert mse(hr + 0.1, hr) == pytest.approx(0.01)
    assert ssim(*pair()[1:] * 2) == pytest.approx(1)
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


def test_spectrum_of_white_noise_is_flat_at_its_variance():
    torch.manual_seed(0)
    power = radial_log_power(0.5 + 0.1 * torch.randn(256, 200))
    assert power.shape == (100,)
    assert power[5:].mean().item() == pytest.approx(math.log(0.01), abs=0.05)


def test_a_wave_stands_at_its_own_frequency():
    x = torch.arange(128.0)
    wave = torch.sin(2 * math.pi * 20 * x / 128)
    for image in (wave.expand(128, 128), wave[:, None].expand(128, 128)):
        assert radial_log_power(image).argmax().item() == 20 - 1  # rings count from 1


def test_spectrum_error_worked_by_hand():
    _, hr = pair(1)
    centred = hr - hr.mean()
    assert spectrum_error(hr, hr) == 0
    assert spectrum_error(hr + 0.2, hr) == pytest.approx(0, abs=1e-3)  # the mean does not count
    assert spectrum_error(centred * 0.5, centred) == pytest.approx(2 * math.log(2), rel=1e-3)


def test_blur_is_seen_in_the_spectrum_and_matching_texture_is_not():
    torch.manual_seed(0)
    hr = 0.5 + 0.1 * torch.randn(128, 128)
    blurred = torch.nn.functional.avg_pool2d(hr[None, None], 5, 1, 2)[0, 0]
    other = 0.5 + 0.1 * torch.randn(128, 128)
    assert psnr(blurred, hr) > psnr(other, hr)
    assert spectrum_error(other, hr) < 0.2 < 1 < spectrum_error(blurred, hr)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="11x11 pixels or more"):
        ssim(torch.zeros(10, 40), torch.zeros(10, 40))


def test_mean_shift_and_histogram_distance_worked_by_hand():
    hr = torch.tensor([[0, 0], [100, 200]]) / 255
    sr = (
        torch.tensor([[200, 10], [100, 0]]) / 255
    )  # the same greys elsewhere, but for one that is 10 brighter
    assert mean_shift(sr, hr) == pytest.approx(100 * 2.5 / 255, abs=1e-4)
    assert histogram_distance(sr, hr) == pytest.approx(100 * 2.5 / 255, abs=1e-9)
    spread = torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    assert mean_shift(spread, torch.full((2, 2), 0.5)) == 0
    assert histogram_distance(spread, torch.full((2, 2), 0.5)) == pytest.approx(25, abs=2e-3)
    assert histogram_distance(torch.ones(3, 3), torch.zeros(3, 3)) == 100


def test_histogram_distance_agrees_with_the_mean_distance_of_sorted_greys():
    torch.manual_seed(0)
    sr, hr = (torch.randint(0, 2**16, (2, 40, 50)) / (2**16 - 1)).unbind()
    sr = sr**1.3
    expected = 100 * (sr.flatten().sort().values - hr.flatten().sort().values).abs().mean()
    assert histogram_distance(sr, hr) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize(
    "name", ["mse", "psnr", "ssim", "spectrum_error", "mean_shift", "histogram_distance"]
)
def test_images_of_a_batch_are_scored_each_by_itself(name):
    sr, hr = (torch.stack(images) for images in zip(*(pair(seed) for seed in range(3))))
    metric = getattr(metrics, name)
    found = metric(sr, hr)
    assert found.shape == (3,)
    for one, *images in zip(found, sr, hr):
        assert one.item() == pytest.approx(metric(*images).item(), rel=1e-5)
