"""Learning-rate schedules: the rate of an update as a function of its step, or of the share of the phase that
is over.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from srgan_dist.utils.settings import Settings

EPOCH = 1000  # updates; at the end of its epochs the paper's code lowers the learning rate


class Constant(Settings):
    """The learning rate of the settings throughout."""

    name: Literal["constant"]

    def learning_rate(self, base, step, progress):
        return base


class Exponential(Settings):
    """A tenfold fall every `decay_every` updates, in stairs of one epoch each, as in the paper's code."""

    name: Literal["exponential"]
    decay_every: int = Field(ge=1, description="updates per tenfold fall of the learning rate")

    def learning_rate(self, base, step, progress):
        return base * 0.1 ** (step // EPOCH * EPOCH / self.decay_every)


class Cosine(Settings):
    """Half a cosine wave down to zero at the end of the phase, which may be an end by time (Loshchilov &
    Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without the restarts).
    """

    name: Literal["cosine"]

    def learning_rate(self, base, step, progress):
        return base * 0.5 * (1 + math.cos(math.pi * progress))


# learning_rate(base, step, progress): step updates taken in the phase, progress the share of it that is over
# (0 to 1)
LRScheduleConfig = Annotated[Constant | Exponential | Cosine, Field(discriminator="name")]
