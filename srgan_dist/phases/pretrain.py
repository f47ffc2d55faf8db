"""Phase 1: the generator alone learns to match pixels (SRCNN in the paper)."""

from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.common import (
    PhaseConfig, adam, build_losses, generator_terms, gradient_norm, learning_rate_of, scheduled, set_learning_rate, train_psnr,
)


class PretrainConfig(PhaseConfig):
    """Settings of phase 1; the defaults are the paper's."""

    steps: int = Field(100_000, ge=1, description="updates")
    decay_every: int | None = Field(50_000, ge=1, description="updates per tenfold fall of the learning rate; null: constant")
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1")}, min_length=1, description="terms of the objective; a key names its panel loss/<key>"
    )


class PretrainPhase:
    """Minimises the weighted sum of its losses over the generator.

    networks.generator: as prepared by Accelerate, so its gradients are averaged over ranks.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator = networks.generator
        self.losses = build_losses(config, accelerator.device)
        self.optimizer = adam(self.generator, config.learning_rate)
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training

    def update(self, lr, hr):
        """Take one step on lr [B, 1, H, W] and hr [B, 1, s*H, s*W]; returns named 0-d tensors on the device."""
        set_learning_rate(self.optimizer, scheduled(self.config, self.config.learning_rate, self.step, self.progress))

        sr = self.generator(lr)
        terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
        self.optimizer.zero_grad()
        self.accelerator.backward(total)
        norm = gradient_norm(self.generator)
        self.optimizer.step()

        self.step += 1
        return {**terms, "loss/generator": total.detach(), "train/psnr": train_psnr(sr, hr), "health/grad_norm/generator": norm}

    def learning_rates(self):
        return {"lr/generator": learning_rate_of(self.optimizer)}

    def stateful(self):
        """Return what a checkpoint must hold beside the generator: name -> module or optimiser."""
        return {"generator_optimizer": self.optimizer}
