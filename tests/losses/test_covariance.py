"""The covariance loss: how much fine detail SR has, and of what shape, block by block."""

import math

import pytest
import torch
from test_stationarity import grains

from srgan_dist.losses import build_loss
from srgan_dist.losses.covariance import WIDTH, CovarianceLossConfig
from srgan_dist.losses.stationarity import fine_detail


def loss(block=24):
    return build_loss(CovarianceLossConfig(name="covariance", block=block), 4)


def test_a_difference_of_strength_worked_by_hand():
    # f times hr has f^2 times its covariances and f times its E|x|: over the mean strength of both
    # (f^2 - 1)^2 / ((f^2 + 1) / 2)^2 at offset 0, where hr's own is 1, and 2 / pi of the same form in f for
    # E|x|; behind the high-pass of the binomial blur the other covariances are small
    hr, f = grains(16, 1, 96, 96) * 10, 0.8
    expected = ((f**2 - 1) / (f**2 + 1) * 2) ** 2 + 2 / math.pi * ((f - 1) / (f + 1) * 2) ** 2
    assert loss(96)(f * hr, hr).item() == pytest.approx(expected, rel=0.15)
    assert loss()(hr, hr).item() == 0


def test_a_quiet_block_does_not_outweigh_all_others():
    hr, sr = grains(1, 1, 24, 24) * 1e-3, grains(1, 1, 24, 24, seed=1)
    assert loss()(sr, hr) < 8 and loss()(1000 * sr, hr) < 8


def test_another_draw_of_the_same_texture_costs_little_and_none_or_another_shape_much():
    hr, other = grains(16, 1, 96, 96), grains(16, 1, 96, 96, seed=1)
    along = (other + other.roll(1, 3)) / 2**0.5  # the same variance, stretched along x
    assert loss()(other, hr) < 0.06
    assert loss()(torch.zeros_like(hr), hr) > 0.9 and loss()(along, hr) > 0.3


def test_the_place_of_texture_counts_by_blocks():
    hr = grains(4, 1, 96, 96)
    hr[..., 48:] *= 0.2  # grains on the left, pores on the right
    moved = hr.flip(3)
    assert loss()(moved, hr) > 100 * loss()(hr.flip(2), hr)


@pytest.mark.parametrize("shape", [(2, 1, 20, 20, 20), (2, 1, 50, 9)])
def test_volumes_and_crops_smaller_than_a_block(shape):
    hr = grains(*shape)
    sr = (0.5 * grains(*shape, seed=1)).requires_grad_()
    value = loss()(sr, hr)
    value.backward()
    assert value.item() > 0.1 and sr.grad.isfinite().all() and sr.grad.any()
    assert loss()(torch.zeros(shape), torch.zeros(shape)).item() == 0


def test_between_a_share_of_the_covariances_and_all_of_them_nothing_is_asked_for():
    hr = grains(8, 1, 96, 96)
    half = build_loss(CovarianceLossConfig(name="covariance", share=0.5), 4)
    for factor in (0.5, 0.7, 1.0):
        assert half(factor**0.5 * hr, hr).item() == pytest.approx(0, abs=1e-6)
    # Below the share the distance to it counts, above all of it that to all of it
    assert half(0.5 * hr, hr).item() == pytest.approx(loss()(0.5 * hr, 0.5**0.5 * hr).item(), rel=1e-4)
    assert half(1.5 * hr, hr).item() == pytest.approx(loss()(1.5 * hr, hr).item(), rel=1e-4)


def test_less_texture_than_hr_has_is_fainter_and_not_whiter():
    hr, white = grains(8, 1, 96, 96), torch.randn(8, 1, 96, 96, generator=torch.Generator().manual_seed(1))
    hr = (hr + hr.roll(1, 2) + hr.roll(1, 3) + hr.roll((1, 1), (2, 3))) / 4  # blobs, neighbours alike
    third = build_loss(CovarianceLossConfig(name="covariance", share=0.3), 4)
    white *= (fine_detail(hr, WIDTH).square().mean() / fine_detail(white, WIDTH).square().mean()).sqrt()
    # Of its variance a part of 0.35 / 0.85 has HR's colour: each covariance is between 0.3 of HR's and HR's
    whiter = 0.35**0.5 * hr + 0.5**0.5 * white
    assert third(0.85**0.5 * hr, hr) < 1e-6 and third(whiter, hr) > 0.05
    each = build_loss(CovarianceLossConfig(name="covariance", share=0.3, share_of="each"), 4)
    assert each(0.85**0.5 * hr, hr) < 1e-6 and each(whiter, hr) < third(whiter, hr) / 4
