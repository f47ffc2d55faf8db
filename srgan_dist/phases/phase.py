"""What the phases share: settings, the sum of losses, means over micro-batches."""

from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch.nn import functional as F

from srgan_dist.losses import build_loss
from srgan_dist.optim.ema import EMA
from srgan_dist.optim.working_copy import to_working_precision, working_dtype
from srgan_dist.utils.settings import Settings

RESERVED_NAMES = {"adversarial", "generator", "discriminator"}  # panels loss/... that are not single losses

OPTIONAL_STATE = {
    "generator_average",
    "generator_usual",
    "discriminator_usual",
}  # where a checkpoint was saved without: ema_decay, max_spike


class PhaseConfig(Settings):
    """Settings that every phase has; a phase adds its `losses`: name -> settings."""

    needs_discriminator: ClassVar[bool] = False

    steps: int = Field(ge=1, description="updates")
    max_seconds: float | None = Field(
        None, gt=0, description="end the phase after this time even if steps are left"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of Adam")
    decay_every: int | None = Field(
        None, ge=1, description="updates per tenfold fall of the learning rate; null: constant"
    )
    anneal: bool = Field(
        False, description="let the learning rate fall to zero along a cosine until the phase ends"
    )
    max_grad_norm: float | None = Field(
        None, gt=0, description="norm to which the gradient of a network is shortened; null: never"
    )
    max_spike: float | None = Field(
        None,
        gt=1,
        description="skip updates in which the loss of a network or the norm of its gradient is more than so many"
        " times its mean over the last 100 updates, e.g. 20; null: only those in which one is not finite",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of a moving average of the generator's weights, which then is what is validated and"
        " kept, e.g. 0.999; null: the weights themselves, as in the paper",
    )
    weights: str | None = Field(
        None, description="generator weights (.safetensors) to take instead of training this phase"
    )

    @field_validator("losses", mode="before", check_fields=False)
    @classmethod
    def _check_losses(cls, losses):
        if not isinstance(losses, dict):
            return losses
        for name in losses:
            if name in RESERVED_NAMES:
                raise ValueError(f"{name} is a panel of its own; choose another key for this loss")
        return {name: loss for name, loss in losses.items() if loss is not None}  # null: without this loss

    def terms(self):
        """Return the factor of every term of the generator's objective: {name: weight}."""
        return {name: loss.weight for name, loss in self.losses.items()}


def build_losses(config, networks, accelerator):
    """Build the losses of a phase from its settings: {name: module}, laid out as the networks, their weights in the
    precision that autocast would give them, and compiled where the networks are.
    """
    losses = {
        name: build_loss(loss).to(accelerator.device, memory_format=networks.layout)
        for name, loss in config.losses.items()
    }
    for loss in losses.values():
        to_working_precision(loss, working_dtype(accelerator))
        if networks.compiled:
            loss.compile(dynamic=False)
    return losses


def ema_of(config, networks):
    """Let the networks keep the EMA that the settings of a phase ask for; returns it, or None."""
    networks.ema = EMA(networks.generator, config.ema_decay) if config.ema_decay else None
    return networks.ema


def generator_terms(losses, configs, sr, hr, accelerator):
    """Return ({"loss/<name>": unweighted 0-d tensor}, weighted sum) of the losses that compare sr with hr."""
    terms, total = {}, 0
    for name, loss in losses.items():
        with accelerator.autocast():
            value = loss(sr, hr)
        terms[f"loss/{name}"] = value.detach()
        total = total + configs[name].weight * value
    return terms, total


class MetricAverager:
    """Means of named 0-d tensors over the micro-batches of an update."""

    def __init__(self, count):
        self.count, self.metrics = count, {}

    def add(self, metrics):
        if self.count > 1:
            metrics = {
                name: self.metrics.get(name, 0) + value / self.count for name, value in metrics.items()
            }
        self.metrics |= metrics


def train_psnr(sr, hr):
    """Return the PSNR of a batch in dB, from its mean squared error; values span [-1, 1], so the peak is 2."""
    return 10 * torch.log10(4 / F.mse_loss(sr.detach(), hr).clamp(min=1e-10))
