"""The game between generator and discriminator, on logits: objectives by name, and the R1 penalty.

An objective has two losses: discriminator(real, fake) and generator(real, fake), both scalars of float32 at
least, from the logits of HR crops (real) and of SR crops (fake), [B, 1] or [B, 1, *map]; the generator's
gradient flows through fake, and real is None unless `generator_sees_real`. probabilities(real, fake) are for
people: how real the discriminator takes each to be, 0 to 1. A new objective is a class in a module of its own
and its line in OBJECTIVES.
"""

from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from srgan_dist.utils.settings import Settings, one_of


class Standard(Settings):
    """Binary cross entropy (Goodfellow et al. 2014; Ledig et al. 2017, equation 6), the generator's not
    saturating.

    Written as softplus it is exact and has a gradient in [-1, 1] for any logit, where sigmoid followed by a
    logarithm loses both.
    """

    name: Literal["standard"] = "standard"
    generator_sees_real: ClassVar[bool] = False

    def discriminator(self, real, fake):
        return _bce(real, 1) + _bce(fake, 0)

    def generator(self, real, fake):
        return _bce(fake, 1)

    def probabilities(self, real, fake):
        return real.sigmoid(), fake.sigmoid()


class Relativistic(Settings):
    """Relativistic average (Jolicoeur-Martineau 2019; Wang et al. 2018, equations 1 to 3): is HR more real
    than SR is on average, and SR less than HR? The averages are those of a micro-batch of a rank.
    """

    name: Literal["relativistic"]
    generator_sees_real: ClassVar[bool] = True

    def discriminator(self, real, fake):
        return (_bce(real - fake.mean(), 1) + _bce(fake - real.mean(), 0)) / 2

    def generator(self, real, fake):
        return (_bce(real - fake.mean(), 0) + _bce(fake - real.mean(), 1)) / 2

    def probabilities(self, real, fake):
        return (real - fake.mean()).sigmoid(), (fake - real.mean()).sigmoid()


class LeastSquares(Settings):
    """Least squares against 1 for real and 0 for fake (Mao et al. 2017, equation 9)."""

    name: Literal["least_squares"]
    generator_sees_real: ClassVar[bool] = False

    def discriminator(self, real, fake):
        return ((_float32(real) - 1).square().mean() + _float32(fake).square().mean()) / 2

    def generator(self, real, fake):
        return (_float32(fake) - 1).square().mean() / 2

    def probabilities(self, real, fake):
        return real.clamp(0, 1), fake.clamp(0, 1)


class Hinge(Settings):
    """Hinge loss with the margins 1 and -1 (Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

    name: Literal["hinge"]
    generator_sees_real: ClassVar[bool] = False

    def discriminator(self, real, fake):
        return F.relu(1 - _float32(real)).mean() + F.relu(1 + _float32(fake)).mean()

    def generator(self, real, fake):
        return -_float32(fake).mean()

    def probabilities(self, real, fake):
        return ((logits + 1).div(2).clamp(0, 1) for logits in (real, fake))


OBJECTIVES = (
    Standard,
    Relativistic,
    LeastSquares,
    Hinge,
)

ObjectiveConfig = one_of(OBJECTIVES, default="standard")


def r1_penalty(real, hr):
    """Return the mean squared norm of the gradient of the logits real at the HR crops hr [B, ...], a scalar
    with a graph (Mescheder et al. 2018, "Which training methods for GANs do actually converge?", equation 9,
    without gamma / 2).
    """
    (gradient,) = torch.autograd.grad(real.sum(), hr, create_graph=True)
    return _float32(gradient).square().flatten(1).sum(1).mean()


def _bce(logits, target):
    return F.softplus(-_float32(logits) if target else _float32(logits)).mean()


def _float32(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))
