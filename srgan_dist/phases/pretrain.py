"""Phase 1: the generator alone learns to match pixels (SRCNN in the paper)."""

from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.common import (
    Means, PhaseConfig, adam, averaged, build_losses, generator_terms, learning_rate_of, scheduled, set_learning_rate, train_psnr,
)
from srgan_dist.phases.gradients import SharedGradients
from srgan_dist.phases.safeguard import Safeguard


class PretrainConfig(PhaseConfig):
    """Settings of phase 1; the defaults are the paper's."""

    steps: int = Field(100_000, ge=1, description="updates")
    decay_every: int | None = Field(50_000, ge=1, description="updates per tenfold fall of the learning rate; null: constant")
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1")}, min_length=1, description="terms of the objective; a key names its panel loss/<key>"
    )


class PretrainPhase:
    """Minimises the weighted sum of its losses over the generator.

    networks.generator: as prepared by Accelerate, the same on every rank.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator = networks.generator
        self.losses = build_losses(config, networks, accelerator.device)
        self.optimizer = adam(self.generator, config.learning_rate)
        self.gradients = SharedGradients(self.generator, accelerator.num_processes)
        self.safeguard = Safeguard({"generator": self.generator}, [], config.clip_gradient, config.max_spike, accelerator.device)
        self.average = averaged(config, networks)
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training

    def update(self, batches):
        """Take one step on the mean over micro-batches [(lr [B, 1, H, W], hr [B, 1, s*H, s*W])], all of one size.

        Returns named 0-d tensors on the device: means over the micro-batches.
        """
        set_learning_rate(self.optimizer, scheduled(self.config, self.config.learning_rate, self.step, self.progress))
        self.safeguard.begin()
        self.optimizer.zero_grad()
        means = Means(len(batches))
        for lr, hr in batches:
            sr = self.generator(lr)
            terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
            parts = len(batches) * self.accelerator.num_processes
            total.backward(gradient=self.safeguard.share_of("generator", total, parts))
            means.add({**terms, "loss/generator": total.detach(), "train/psnr": train_psnr(sr, hr)})
        self.gradients.start(self.safeguard.losses.get("generator"))
        norm = self.safeguard.check("generator", self.gradients.wait())
        self.safeguard.step(self.optimizer)
        if self.average:
            self.average.update(self.safeguard.unsound)

        self.step += 1
        return {**means.values, "health/grad_norm/generator": norm, "health/skipped": self.safeguard.unsound}

    def terms(self):
        """Return the factor of every term of the objective: {name: weight}."""
        return self.config.terms()

    def learning_rates(self):
        return {"lr/generator": learning_rate_of(self.optimizer)}

    def stateful(self):
        """Return what a checkpoint must hold beside the generator, after a whole update: name -> module or optimiser."""
        self.safeguard.settle()
        average = {"generator_average": self.average.settled()} if self.average else {}
        return {"generator_optimizer": self.optimizer, **average, **self.safeguard.stateful()}
