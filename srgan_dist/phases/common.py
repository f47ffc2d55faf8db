"""What the phases share: settings, the optimiser, the learning rate, the sum of losses, means over micro-batches."""

import math
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch.nn import functional as F

from srgan_dist.losses import build_loss
from srgan_dist.phases.average import Average
from srgan_dist.settings import Settings

EPOCH = 1000  # updates; the official code's epoch, at whose end it lowers the learning rate
TAKEN = {"adversarial", "generator", "discriminator"}  # panels loss/... that are not single losses

BEGINS_ANEW = {"generator_average", "generator_usual", "discriminator_usual"}  # where a checkpoint was saved without: ema_decay, max_spike


class PhaseConfig(Settings):
    """Settings that every phase has; a phase adds its `losses`: name -> settings."""

    needs_discriminator: ClassVar[bool] = False

    steps: int = Field(ge=1, description="updates")
    max_seconds: float | None = Field(None, gt=0, description="end the phase after this time even if steps are left")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam")
    decay_every: int | None = Field(None, ge=1, description="updates per tenfold fall of the learning rate; null: constant")
    anneal: bool = Field(False, description="let the learning rate fall to zero along a cosine until the phase ends")
    clip_gradient: float | None = Field(None, gt=0, description="norm to which the gradient of a network is shortened; null: never")
    max_spike: float | None = Field(
        None, gt=1, description="skip updates in which the loss of a network or the norm of its gradient is more than so many"
        " times its mean over the last 100 updates, e.g. 20; null: only those in which one is not finite"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="of a moving average of the generator's weights, which then is what is validated and"
        " kept, e.g. 0.999; null: the weights themselves, as in the paper"
    )
    weights: str | None = Field(None, description="generator weights (.safetensors) to take instead of training this phase")

    @field_validator("losses", mode="before", check_fields=False)
    @classmethod
    def _check_losses(cls, losses):
        if not isinstance(losses, dict):
            return losses
        for name in losses:
            if name in TAKEN:
                raise ValueError(f"{name} is a panel of its own; choose another key for this loss")
        return {name: loss for name, loss in losses.items() if loss is not None}  # null: without this loss

    def terms(self):
        """Return the factor of every term of the generator's objective: {name: weight}."""
        return {name: loss.weight for name, loss in self.losses.items()}


def adam(network, learning_rate):
    """Return Adam with the paper's settings (betas 0.9 and 0.999, epsilon 1e-8)."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)


def decayed(learning_rate, decay_every, step):
    """Return the learning rate of an update: a tenth every `decay_every` updates, in stairs of one epoch each."""
    if decay_every is None:
        return learning_rate
    return learning_rate * 0.1 ** (step // EPOCH * EPOCH / decay_every)


def annealed(learning_rate, progress):
    """Return the learning rate after a share `progress` of the phase (0 to 1) on half a cosine wave
    (Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without the restarts).
    """
    return learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def scheduled(config, learning_rate, step, progress):
    """Return the learning rate of an update under the schedule of its phase."""
    learning_rate = decayed(learning_rate, config.decay_every, step)
    return annealed(learning_rate, progress) if config.anneal else learning_rate


def set_learning_rate(optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_of(optimizer):
    return optimizer.param_groups[0]["lr"]


def build_losses(config, networks, device):
    """Build the losses of a phase from its settings: {name: module}, laid out as the networks and compiled where they are."""
    losses = {name: build_loss(loss).to(device, memory_format=networks.layout) for name, loss in config.losses.items()}
    if networks.compiled:
        for loss in losses.values():
            loss.compile()
    return losses


def averaged(config, networks):
    """Let the networks keep the moving average that the settings of a phase ask for; returns it, or None."""
    networks.average = Average(networks.generator, config.ema_decay) if config.ema_decay else None
    return networks.average


def generator_terms(losses, configs, sr, hr, accelerator):
    """Return ({"loss/<name>": unweighted 0-d tensor}, weighted sum) of the losses that compare sr with hr."""
    terms, total = {}, 0
    for name, loss in losses.items():
        with accelerator.autocast():
            value = loss(sr, hr)
        terms[f"loss/{name}"] = value.detach()
        total = total + configs[name].weight * value
    return terms, total


class Means:
    """Means of named 0-d tensors over the micro-batches of an update."""

    def __init__(self, count):
        self.count, self.values = count, {}

    def add(self, numbers):
        for name, value in numbers.items():
            self.values[name] = self.values.get(name, 0) + value / self.count


def train_psnr(sr, hr):
    """Return the PSNR of a batch in dB, from its mean squared error; values span [-1, 1], so the peak is 2."""
    return 10 * torch.log10(4 / F.mse_loss(sr.detach(), hr).clamp(min=1e-10))
