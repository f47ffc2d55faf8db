"""GAN objectives against values worked by hand and formulas of their papers."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from srgan_dist.losses.gan import (
    OBJECTIVES,
    Hinge,
    LeastSquares,
    ObjectiveConfig,
    Relativistic,
    Standard,
    r1_penalty,
)

REAL, FAKE = torch.tensor([[2.0], [0.5]]), torch.tensor([[-1.0], [0.0]])


def test_relativistic_is_the_average_form_of_its_paper():
    objective = Relativistic(name="relativistic")
    ones, zeros = torch.ones(2, 1), torch.zeros(2, 1)
    bce = F.binary_cross_entropy_with_logits
    d = (bce(REAL - FAKE.mean(), ones) + bce(FAKE - REAL.mean(), zeros)) / 2
    g = (bce(REAL - FAKE.mean(), zeros) + bce(FAKE - REAL.mean(), ones)) / 2
    assert objective.discriminator(REAL, FAKE).item() == pytest.approx(d.item(), rel=1e-6)
    assert objective.generator(REAL, FAKE).item() == pytest.approx(g.item(), rel=1e-6)
    equal = torch.full((4, 1), 3.0)  # who cannot tell HR from SR loses log 2, at any level of the logits
    assert objective.discriminator(equal, equal).item() == pytest.approx(math.log(2))


def test_least_squares_and_hinge_worked_by_hand():
    squares, hinge = LeastSquares(name="least_squares"), Hinge(name="hinge")
    assert squares.discriminator(REAL, FAKE).item() == pytest.approx(((1 + 0.25) / 2 + (1 + 0) / 2) / 2)
    assert squares.generator(None, FAKE).item() == pytest.approx((4 + 1) / 2 / 2)
    assert hinge.discriminator(REAL, FAKE).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert hinge.generator(None, FAKE).item() == pytest.approx(0.5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_losses_pull_their_network_the_right_way(objective):
    game = TypeAdapter(ObjectiveConfig).validate_python(
        {"name": objective.model_fields["name"].annotation.__args__[0]}
    )
    real, fake = (torch.full((3, 1, 2, 2), 0.25, requires_grad=True) for _ in range(2))
    game.discriminator(real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake.grad = None
    game.generator(real.detach() if game.generator_sees_real else None, fake).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_of_bfloat16_logits_are_float32_and_probabilities_are_ordered(objective):
    game = TypeAdapter(ObjectiveConfig).validate_python(
        {"name": objective.model_fields["name"].annotation.__args__[0]}
    )
    real, fake = REAL.bfloat16(), FAKE.bfloat16()
    assert game.discriminator(real, fake).dtype == game.generator(real, fake).dtype == torch.float32
    d_real, d_fake = game.probabilities(REAL, FAKE)
    assert ((0 <= d_fake) & (d_real <= 1)).all() and d_fake.mean() < 0.5 < d_real.mean()


def test_an_objective_without_a_name_is_the_standard_one():
    assert TypeAdapter(ObjectiveConfig).validate_python({}) == Standard()


def test_r1_is_the_squared_gradient_at_hr_per_crop():
    weights = torch.tensor([3.0, -4.0], requires_grad=True)
    hr = torch.randn(5, 1, 1, 2, requires_grad=True)
    penalty = r1_penalty((hr.flatten(1) * weights).sum(1, keepdim=True), hr)
    assert penalty.item() == pytest.approx(25)
    (gradient,) = torch.autograd.grad(penalty, weights)
    assert gradient.tolist() == pytest.approx([6, -8])  # it reaches the discriminator's weights
