"""Phase 2: generator against discriminator (SRGAN), on top of the pixel and perceptual losses."""

import contextlib
from typing import ClassVar

import torch
from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.adversarial import adversarial_loss, discriminator_loss
from srgan_dist.losses.perceptual import VGGLossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.common import (
    Means, PhaseConfig, adam, averaged, build_losses, generator_terms, learning_rate_of, scheduled, set_learning_rate, train_psnr,
)
from srgan_dist.phases.gradients import SharedGradients
from srgan_dist.phases.safeguard import Safeguard


class AdversarialConfig(PhaseConfig):
    """Settings of phase 2; the defaults are the paper's."""

    needs_discriminator: ClassVar[bool] = True

    steps: int = Field(150_000, ge=1, description="updates")
    discriminator_learning_rate: float | None = Field(None, gt=0, description="null: the generator's")
    decay_every: int | None = Field(100_000, ge=1, description="updates per tenfold fall of the learning rates; null: constant")
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1"), "perceptual": VGGLossConfig(name="vgg19")}, min_length=1,
        description="terms of the generator's objective beside the adversarial one; a key names its panel loss/<key>",
    )
    adversarial_weight: float = Field(5e-3, gt=0, description="factor of the adversarial term: the paper's beta")
    adversarial_warmup: int = Field(0, ge=0, description="first updates, in which the adversarial term rises to its full weight")

    def terms(self):
        return super().terms() | {"adversarial": self.adversarial_weight}


class AdversarialPhase:
    """Alternates one discriminator and one generator update per batch.

    networks.generator and networks.discriminator: as prepared by Accelerate, the same on every rank.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator, self.discriminator = networks.generator, networks.discriminator
        self.losses = build_losses(config, networks, accelerator.device)
        self.generator_optimizer = adam(self.generator, config.learning_rate)
        self.discriminator_optimizer = adam(self.discriminator, config.learning_rate)
        self.generator_gradients = SharedGradients(self.generator, accelerator.num_processes)
        self.discriminator_gradients = SharedGradients(self.discriminator, accelerator.num_processes)
        self.safeguard = Safeguard(
            {"generator": self.generator, "discriminator": self.discriminator},
            [(self.discriminator, self.discriminator_optimizer)], config.clip_gradient, config.max_spike, accelerator.device,
        )
        self.average = averaged(config, networks)
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training

    def update(self, batches):
        """Take one step of both networks on micro-batches [(lr [B, 1, H, W], hr [B, 1, s*H, s*W])], all of one size.

        Returns named 0-d tensors on the device: means over the micro-batches.

        The discriminator steps on all micro-batches before the generator's adversarial term sees any, as it does when
        they are one. The graph of a single micro-batch is kept from one network to the other; of several, one lives at
        a time, and the generator's forward is computed again.
        """
        self._set_learning_rates()
        self.safeguard.begin()
        self.generator_optimizer.zero_grad()
        self.discriminator_optimizer.zero_grad()
        parts, alone = len(batches) * self.accelerator.num_processes, len(batches) == 1
        means = Means(len(batches))

        with contextlib.nullcontext() if alone else unchanged_buffers(self.generator):
            for lr, hr in batches:
                with torch.set_grad_enabled(alone):
                    sr = self.generator(lr)
                means.add(self._judge(sr.detach(), hr, parts))
        self.discriminator_gradients.start(self.safeguard.losses.get("discriminator"))

        for number, (lr, hr) in enumerate(batches):
            sr = sr if alone else self.generator(lr)
            terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
            if number == 0:  # while the terms of the first were computed, the discriminator's gradients have come
                discriminator_norm = self._step("discriminator", self.discriminator_gradients, self.discriminator_optimizer)
            means.add(terms | self._persuade(sr, total, parts) | {"train/psnr": train_psnr(sr, hr)})
        self.generator_gradients.start(self.safeguard.losses.get("generator"))
        generator_norm = self._step("generator", self.generator_gradients, self.generator_optimizer)
        if self.average:
            self.average.update(self.safeguard.unsound)

        self.step += 1
        return {**means.values, "health/grad_norm/generator": generator_norm,
                "health/grad_norm/discriminator": discriminator_norm, "health/skipped": self.safeguard.unsound}

    def terms(self):
        """Return the factor of every term of the generator's objective as it is now: {name: weight}."""
        return self.config.terms() | {"adversarial": self.adversarial_weight()}

    def learning_rates(self):
        return {
            "lr/generator": learning_rate_of(self.generator_optimizer),
            "lr/discriminator": learning_rate_of(self.discriminator_optimizer),
        }

    def adversarial_weight(self):
        """Return the factor of the adversarial term at the current update, full from the end of the warm-up on."""
        return self.config.adversarial_weight * min(1, (self.step + 1) / (self.config.adversarial_warmup + 1))

    def _set_learning_rates(self):
        rates = self.config.learning_rate, self.config.discriminator_learning_rate or self.config.learning_rate
        for optimizer, rate in zip((self.generator_optimizer, self.discriminator_optimizer), rates, strict=True):
            set_learning_rate(optimizer, scheduled(self.config, rate, self.step, self.progress))

    def _judge(self, sr, hr, parts):
        """Add to the discriminator's gradient what one of the parts of an update contributes."""
        with self.accelerator.autocast():  # around both: the weights are turned into bfloat16 once
            real, fake = self.discriminator(hr), self.discriminator(sr)
        loss = discriminator_loss(real, fake)
        loss.backward(gradient=self.safeguard.share_of("discriminator", loss, parts))
        return {
            "loss/discriminator": loss.detach(),
            "d/real": real.detach().sigmoid().mean(),
            "d/fake": fake.detach().sigmoid().mean(),
        }

    def _persuade(self, sr, content, parts):
        """Add to the generator's gradient what one of the parts contributes; content: the sum of its other terms."""
        # Through the frozen discriminator: the gradient flows on to sr, and none is kept for the discriminator.
        self.discriminator.requires_grad_(False)
        adversarial = adversarial_loss(self.discriminator(sr))
        total = content + self.adversarial_weight() * adversarial
        total.backward(gradient=self.safeguard.share_of("generator", total, parts))
        self.discriminator.requires_grad_(True)
        return {"loss/adversarial": adversarial.detach(), "loss/generator": total.detach()}

    def _step(self, name, gradients, optimizer):
        """Step a network on the sum of its gradients over ranks, once it is there; returns its norm."""
        norm = self.safeguard.check(name, gradients.wait())
        self.safeguard.step(optimizer)
        return norm

    def stateful(self):
        """Return what a checkpoint must hold beside the generator, after a whole update: name -> module or optimiser."""
        self.safeguard.settle()
        average = {"generator_average": self.average.settled()} if self.average else {}
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
            **average,
            **self.safeguard.stateful(),
        }


@contextlib.contextmanager
def unchanged_buffers(network):
    """Put the buffers of a network back after what is computed only to be computed once more."""
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
