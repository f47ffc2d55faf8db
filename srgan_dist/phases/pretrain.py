"""Phase 1: the generator alone learns to match pixels (SRCNN in the paper)."""

from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.optim.adam import adam, scheduled, set_learning_rate
from srgan_dist.optim.all_reduce import GradientAllReduce
from srgan_dist.optim.update_guard import UpdateGuard
from srgan_dist.optim.working_copy import WorkingCopy, working_dtype
from srgan_dist.phases.phase import (
    MetricAverager,
    PhaseConfig,
    build_losses,
    ema_of,
    generator_terms,
    train_psnr,
)


class PretrainConfig(PhaseConfig):
    """Settings of phase 1; the defaults are the paper's."""

    steps: int = Field(100_000, ge=1, description="updates")
    decay_every: int | None = Field(
        50_000, ge=1, description="updates per tenfold fall of the learning rate; null: constant"
    )
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1")},
        min_length=1,
        description="terms of the objective; a key names its panel loss/<key>",
    )


class PretrainPhase:
    """Minimises the weighted sum of its losses over the generator.

    networks.generator: as prepared by Accelerate, the same on every rank.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator = networks.generator
        self.losses = build_losses(config, networks, accelerator)
        self.working = WorkingCopy(self.generator, working_dtype(accelerator), compiled=networks.compiled)
        self.optimizer = adam(self.generator, config.learning_rate)
        self.gradients = GradientAllReduce(self.generator, accelerator.num_processes)
        self.guard = UpdateGuard(
            {"generator": self.generator}, config.max_grad_norm, config.max_spike, accelerator.device
        )
        self.ema = ema_of(config, networks)
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training
        self.learning_rate = config.learning_rate  # of the last update

    def update(self, batches):
        """Take one step on the mean over micro-batches [(lr [B, 1, H, W], hr [B, 1, s*H, s*W])], all of one size.

        Returns named 0-d tensors on the device: means over the micro-batches.
        """
        self.learning_rate = scheduled(self.config, self.config.learning_rate, self.step, self.progress)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.step += 1
        return self.compute(batches)

    def compute(self, batches):
        """Do the work of an update on the device: the host waits for none of it and decides nothing by its numbers."""
        self.guard.begin()
        self.optimizer.zero_grad()
        self.working.refresh()
        metrics = MetricAverager(len(batches))
        parts = len(batches) * self.accelerator.num_processes
        for lr, hr in batches:
            sr = self.working.module(lr)
            terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
            total.backward(gradient=self.guard.backward_scale("generator", total, parts))
            self.working.collect_gradients()
            metrics.add({**terms, "loss/generator": total.detach(), "train/psnr": train_psnr(sr, hr)})
        self.gradients.start(self.guard.losses.get("generator"))
        norm = self.guard.check("generator", self.gradients.wait())
        self.guard.commit(self.optimizer)
        if self.ema:
            self.ema.update(self.guard.found_inf)
        return {**metrics.metrics, "health/grad_norm/generator": norm, "health/skipped": self.guard.found_inf}

    def terms(self):
        """Return the factor of every term of the objective: {name: weight}."""
        return self.config.terms()

    def learning_rates(self):
        """Return the learning rate of the last update."""
        return {"lr/generator": self.learning_rate}

    def stateful(self):
        """Return what a checkpoint must hold beside the generator: name -> module or optimiser."""
        average = {"generator_average": self.ema.synchronised()} if self.ema else {}
        return {"generator_optimizer": self.optimizer, **average, **self.guard.stateful()}
