"""Measures of artificial texture, against known patterns."""

import itertools

import numpy as np
import pytest
import torch

from srgan_dist.evaluation.metrics import spectrum_error
from srgan_dist.evaluation.texture import (
    directional_log_power,
    directional_spectrum_error,
    lattice_excess,
    phase_dependence,
)

STD = 0.05


def grains(*shape, seed=0):
    return 0.5 + STD * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale, shape", [(4, (2, 256, 256)), (3, (2, 255, 249)), (2, (1, 64, 64, 64))])
def test_texture_without_a_pattern_has_the_floor_of_chance(scale, shape):
    hr, sr = grains(*shape), grains(*shape, seed=1)
    assert (phase_dependence(sr, hr, scale) < 0.02).all()
    assert (lattice_excess(sr, hr, scale) < 6).all() and (lattice_excess(hr, hr, scale) < 6).all()
    assert (directional_spectrum_error(sr, hr, scale) < 0.15).all()


@pytest.mark.parametrize("scale, ndim", [(2, 2), (3, 2), (4, 2), (6, 2), (8, 2), (2, 3), (3, 3)])
def test_phase_dependence_of_modulated_noise_worked_by_hand(scale, ndim):
    # Noise whose variance is 1 + a at the first of n sub-pixel phases of each pixel of LR and 1 elsewhere:
    # only the covariance at offset 0 depends on the phase, its mean square deviation is a^2 (1/n) (1 - 1/n)
    times, a = (40 if ndim == 2 else 20), 4.0
    side = times * scale
    hr = torch.randn(1, *[side] * ndim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    factor = torch.ones(*[scale] * ndim, dtype=torch.float64)
    factor[(0,) * ndim] = np.sqrt(1 + a)
    sr = hr * factor.repeat(*[times] * ndim)
    share = 1 / scale**ndim
    expected = a * np.sqrt(share * (1 - share) / {2: 7, 3: 13}[ndim])  # over 7 or 13 offsets
    assert phase_dependence(sr, hr, scale).item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    "scale, ndim, side",
    [(2, 2, 240), (3, 2, 240), (4, 2, 240), (6, 2, 240), (8, 2, 240), (2, 3, 48), (3, 3, 48)],
)
def test_lattice_excess_of_a_cosine_worked_by_hand(scale, ndim, side):
    amplitude, shape = 0.02, [side] * ndim
    hr, sr = grains(8, *shape), grains(8, *shape, seed=1)
    period = torch.cos(2 * torch.pi * torch.arange(side) / scale)
    found = lattice_excess(sr + amplitude * period, hr, scale).mean().item()
    # Under a window w the peak is (A/2)^2 (sum w)^2 / sum w^2, A^2 at the Nyquist frequency; along each axis
    # the Hann window gives its two neighbours a quarter each, of the 3^n frequencies around it
    window = torch.hann_window(side)
    peak = (amplitude / (1 if scale == 2 else 2)) ** 2 * (window.sum() ** 2 / (window**2).sum()) ** ndim
    expected = 10 * np.log10((peak * (1.5 / 3) ** ndim + STD**2).item() / STD**2)
    assert found == pytest.approx(expected, abs=1.5) and found > 15


@pytest.mark.parametrize("scale, ndim", [(2, 2), (3, 2), (4, 2), (6, 2), (8, 2), (2, 3), (3, 3)])
def test_a_lattice_of_any_direction_shows(scale, ndim):
    side = 240 if ndim == 2 else 48
    hr, sr = grains(1, *[side] * ndim), grains(1, *[side] * ndim, seed=1)
    places = torch.meshgrid(*[torch.arange(side)] * ndim, indexing="ij")
    for multiple in itertools.product(range(scale), repeat=ndim):
        if any(multiple):
            phase = sum(k * place for k, place in zip(multiple, places, strict=True))
            period = torch.cos(2 * torch.pi * phase / scale)
            assert lattice_excess(sr + 0.03 * period, hr, scale).item() > 15, multiple


def test_a_hatch_in_a_part_of_the_image_grows_with_its_amplitude():
    hr, sr, period = grains(1, 480, 480), grains(1, 480, 480, seed=1), torch.zeros(480, 480)
    hatch = torch.cos(torch.pi * torch.arange(120) / 2)
    period[60:180, 300:420] = hatch + hatch[:, None]  # 6 % of the area
    found = [lattice_excess(sr + amplitude * period, hr, 4).item() for amplitude in (0.1, 0.2)]
    assert found[0] > 15 and 5 < found[1] - found[0] < 6.1


def test_grain_that_is_stronger_or_whiter_than_hr_is_no_lattice():
    hr = grains(1, 48, 48, 48)
    blurred = 0.5 + sum((hr - 0.5).roll(step, axis) for axis in (1, 2, 3) for step in (-1, 1)) / 6
    for sr in (0.5 + 4 * (grains(1, 48, 48, 48, seed=1) - 0.5), grains(1, 48, 48, 48, seed=1)):
        assert lattice_excess(sr, blurred, 4).item() < 6
    hr, sr = grains(1, 480, 480), 0.5 + 3 * (grains(1, 480, 480, seed=1) - 0.5)
    assert lattice_excess(sr, 0.5 + ((hr - 0.5) + (hr - 0.5).roll(1, 1)) / 2, 4).item() < 6


def test_a_grain_of_one_direction_hides_in_a_ring_and_shows_by_angle():
    hr = grains(1, 256, 256)
    spectrum = torch.fft.fft2(hr - 0.5)
    y, x = torch.meshgrid(torch.fft.fftfreq(256), torch.fft.fftfreq(256), indexing="ij")
    along = torch.sqrt(
        1 + 0.9 * torch.cos(2 * torch.atan2(y, x))
    )  # power moved from one direction to another
    sr = 0.5 + torch.fft.ifft2(spectrum * along).real
    assert spectrum_error(sr, hr).item() < 0.15
    assert directional_spectrum_error(sr, hr, 4).item() > 0.5
    power = directional_log_power(sr, 4)[0] - directional_log_power(hr, 4)[0]
    assert power.argmax() == 0 and power.argmin() == 9  # 0 and 90 degrees


def test_the_slices_of_a_volume_are_compared_in_three_directions():
    hr = grains(1, 32, 32, 32)
    sr = hr + 0.1 * torch.cos(torch.pi * torch.arange(32))[:, None, None]  # alternates along z
    by_plane = (directional_log_power(sr, 2) - directional_log_power(hr, 2)).view(3, 18).abs().amax(1)
    assert by_plane[0] < 0.05 and (by_plane[1:] > 1).all()


def test_a_constant_image_gives_finite_numbers():
    flat = torch.full((1, 48, 48), 0.4)
    noisy = grains(1, 48, 48)
    for metric in (phase_dependence, lattice_excess, directional_spectrum_error):
        assert metric(flat, flat, 4).isfinite().all() and metric(noisy, flat, 4).isfinite().all()
        assert metric(flat, noisy, 4).isfinite().all()
