"""Statistics by sub-pixel phase, and the loss on them."""

import pytest
import torch

from srgan_dist.losses import build_loss
from srgan_dist.losses.stationarity import WIDTH, StationarityLossConfig, fine_detail
from srgan_dist.utils.stationarity import offsets_of, phase_moments


def loss(scale):
    return build_loss(StationarityLossConfig(name="stationarity"), scale)


def grains(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_moments_of_a_lattice_worked_by_hand():
    cell = torch.tensor([[1.0, 2.0], [5.0, -3.0]])
    means, covariances = phase_moments(cell.repeat(2, 6, 6), scale=2)
    assert torch.equal(means, cell.flatten())
    by_offset = dict(zip(offsets_of(2), covariances, strict=True))
    assert set(by_offset) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)}
    assert torch.equal(by_offset[0, 0], cell**2) and torch.equal(by_offset[0, 2], cell**2)
    assert torch.equal(by_offset[0, 1], torch.tensor([[2.0, 2.0], [-15.0, -15.0]]))
    assert torch.equal(by_offset[1, 0], torch.tensor([[5.0, -6.0], [5.0, -6.0]]))
    assert torch.equal(by_offset[1, 1], torch.tensor([[-3.0, 10.0], [10.0, -3.0]]))


def test_offsets_of_volumes():
    assert len(offsets_of(3)) == len(set(offsets_of(3))) == 13


def test_fine_detail_is_what_the_binomial_blur_takes_away():
    impulse = torch.zeros(1, 1, 11, 11)
    impulse[..., 5, 5] = 256
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    expected = impulse.clone()
    expected[..., 3:8, 3:8] -= torch.outer(row, row)
    assert torch.equal(fine_detail(impulse, 5), expected)
    assert not fine_detail(torch.full((1, 1, 8, 8, 8), 0.3), 5).abs().max() > 1e-6
    wide = fine_detail(impulse, 9)[0, 0, 5]
    row = torch.tensor([1.0, 8, 28, 56, 70, 56, 28, 8, 1]) * 70 / 256
    assert torch.allclose(impulse[0, 0, 5] - wide, torch.cat([torch.zeros(1), row, torch.zeros(1)]))


@pytest.mark.parametrize("scale, shape", [(4, (8, 1, 96, 96)), (3, (8, 1, 48, 60)), (2, (2, 1, 32, 32, 32))])
def test_stationary_texture_costs_little_and_a_lattice_much(scale, shape):
    hr, sr = grains(*shape), grains(*shape, seed=1)
    lattice = 0.05 * torch.cos(2 * torch.pi * torch.arange(shape[-1]) / scale)
    none, some, more = (loss(scale)(sr + factor * lattice, hr) for factor in (0, 1, 2))
    assert abs(none) < 0.2 and some > 1 and more > 2 * some


def test_a_lattice_whose_sign_changes_from_place_to_place_is_seen():
    hr, sr = grains(8, 1, 96, 96), grains(8, 1, 96, 96, seed=1)
    lattice = torch.zeros(4, 4)
    lattice[1, 2] = 0.3
    signs = torch.randint(0, 2, (8, 1, 24, 24), generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    hidden = torch.kron(signs, lattice)
    assert loss(4)(sr + hidden, hr) > 0.5 > 0.05 > abs(loss(4)(sr, hr))


def test_a_lattice_costs_a_faint_rock_as_much_as_one_of_strong_contrast():
    contrast = torch.tensor([1.0, 0.2] * 4).view(-1, 1, 1, 1)
    hr, sr = contrast * grains(8, 1, 96, 96), contrast * grains(8, 1, 96, 96, seed=1)
    lattice = contrast * 0.1 * torch.cos(torch.pi * torch.arange(96) / 2)
    strong, faint = (loss(4)(sr + (contrast == level) * lattice, hr) for level in (1.0, 0.2))
    assert faint > 1 and abs(faint / strong - 1) < 0.1


def test_a_batch_of_air_counts_as_if_its_detail_had_a_grey_level():
    air, level = torch.full((8, 1, 96, 96), -0.9), grains(8, 1, 96, 96)
    size = fine_detail(level, WIDTH).square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
    sr = air + 0.002 * torch.cos(torch.pi * torch.arange(96) / 2)  # a quarter of a grey level
    assert torch.allclose(loss(4)(sr, air), loss(4)(sr, level * (2 / 255) / size), rtol=1e-4)
    assert 1 < loss(4)(sr, air) < 5  # in units of its own rounding some 180


def test_a_rock_of_12_bits_in_16_is_no_air():
    hr, sr = grains(8, 1, 96, 96), grains(8, 1, 96, 96, seed=1)
    lattice = 0.05 * torch.cos(torch.pi * torch.arange(96) / 2)
    losses = [loss(4)(factor * (sr + lattice), factor * hr) for factor in (1, 1 / 16, 1 / 50)]
    assert losses[0] > 0.1 and torch.allclose(torch.stack(losses), losses[0], rtol=1e-3)


def test_noise_costs_nothing_on_average_however_strong():
    hr = grains(4, 1, 48, 48)
    losses = [loss(4)(2 * grains(4, 1, 48, 48, seed=seed), hr) for seed in range(1, 60)]
    mean, std = torch.stack(losses).mean(), torch.stack(losses).std()
    assert abs(mean) < 3 * std / len(losses) ** 0.5 and std > 0.05


@pytest.mark.parametrize("images", [1, 2, 3, 8])
def test_opposite_lattices_above_and_below_gain_nothing(images):
    """What a network could draw that knows by its padding where a crop ends."""
    hr, sr = grains(images, 1, 96, 96), grains(images, 1, 96, 96, seed=1)
    lattice = torch.cos(torch.pi * torch.arange(96) / 2).repeat(96, 1)
    lattice[48:] *= -1
    # Its own square would count -100 * strength^2 and more
    for strength in (1, 10):
        assert loss(4)(sr + strength * lattice, hr) > -0.1 * strength**2


@pytest.mark.parametrize("images", [2, 3])
def test_opposites_between_images_of_different_contrast_gain_nothing(images):
    """A product of halves alone would be about minus the square of the difference of their contrasts."""
    hr, sr = grains(images, 1, 24, 24, 24), grains(images, 1, 24, 24, 24, seed=1)
    lattice = torch.cos(torch.pi * torch.arange(24) / 2).repeat(24, 24, 1)
    lattice[12:] *= -1
    contrast = torch.arange(1.0, images + 1).view(-1, 1, 1, 1, 1)
    assert loss(4)(sr + contrast * lattice, hr) >= 0


def test_the_middle_of_an_odd_number_of_rows_is_in_neither_half():
    detail = torch.zeros(1, 28, 24)  # seven LR rows, of which the first and the last have no part
    detail[:, 12:16] = 1
    means, covariances = phase_moments(detail, 4, halves=True)
    assert not means.any() and not covariances[:, 0].any()


def test_the_gradient_flattens_a_lattice():
    hr = grains(4, 1, 48, 48)
    sr = (grains(4, 1, 48, 48, seed=1) + 0.1 * torch.cos(torch.pi * torch.arange(48) / 2)).requires_grad_()
    optimizer, before = torch.optim.Adam([sr], 1e-2), loss(4)(sr, hr).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss(4)(sr, hr).backward()
        optimizer.step()
    assert loss(4)(sr, hr).item() < before / 10


def test_a_constant_hr_gives_a_finite_loss():
    assert loss(2)(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)).item() == 0
