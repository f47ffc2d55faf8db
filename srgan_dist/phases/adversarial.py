"""Phase 2: generator against discriminator (SRGAN), on top of the pixel and perceptual losses."""

from typing import ClassVar

from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.adversarial import adversarial_loss, discriminator_loss
from srgan_dist.losses.perceptual import VGGLossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.common import (
    PhaseConfig, adam, build_losses, generator_terms, gradient_norm, learning_rate_of, scheduled, set_learning_rate, train_psnr,
)


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

    def terms(self):
        return super().terms() | {"adversarial": self.adversarial_weight}


class AdversarialPhase:
    """Alternates one discriminator and one generator update per batch.

    networks.generator and networks.discriminator: as prepared by Accelerate, so their gradients are averaged over
    ranks.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator, self.discriminator = networks.generator, networks.discriminator
        self.critic = accelerator.unwrap_model(self.discriminator)
        self.losses = build_losses(config, accelerator.device)
        self.generator_optimizer = adam(self.generator, config.learning_rate)
        self.discriminator_optimizer = adam(self.discriminator, config.learning_rate)
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training

    def update(self, lr, hr):
        """Take one step of both networks on lr [B, 1, H, W] and hr [B, 1, s*H, s*W]; returns named 0-d tensors."""
        rates = self.config.learning_rate, self.config.discriminator_learning_rate or self.config.learning_rate
        for optimizer, rate in zip((self.generator_optimizer, self.discriminator_optimizer), rates, strict=True):
            set_learning_rate(optimizer, scheduled(self.config, rate, self.step, self.progress))

        sr = self.generator(lr)
        metrics = self._update_discriminator(sr.detach(), hr)
        metrics |= self._update_generator(sr, hr)

        self.step += 1
        return metrics | {"train/psnr": train_psnr(sr, hr)}

    def learning_rates(self):
        return {
            "lr/generator": learning_rate_of(self.generator_optimizer),
            "lr/discriminator": learning_rate_of(self.discriminator_optimizer),
        }

    def _update_discriminator(self, sr, hr):
        real, fake = self.discriminator(hr), self.discriminator(sr)
        loss = discriminator_loss(real, fake)
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = gradient_norm(self.discriminator)
        self.discriminator_optimizer.step()
        return {
            "loss/discriminator": loss.detach(),
            "d/real": real.detach().sigmoid().mean(),
            "d/fake": fake.detach().sigmoid().mean(),
            "health/grad_norm/discriminator": norm,
        }

    def _update_generator(self, sr, hr):
        terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
        # Through the frozen network itself: the gradient flows on to sr, none is kept for the discriminator, and
        # none of its all-reduces is triggered.
        self.critic.requires_grad_(False)
        adversarial = adversarial_loss(self.critic(sr))
        total = total + self.config.adversarial_weight * adversarial
        self.generator_optimizer.zero_grad()
        self.accelerator.backward(total)
        norm = gradient_norm(self.generator)
        self.critic.requires_grad_(True)
        self.generator_optimizer.step()
        return {**terms, "loss/adversarial": adversarial.detach(), "loss/generator": total.detach(), "health/grad_norm/generator": norm}

    def stateful(self):
        """Return what a checkpoint must hold beside the generator: name -> module or optimiser."""
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator": self.critic,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
