"""Phase 1: the generator alone learns to match pixels (SRCNN in the paper)."""

from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.phase import Phase, PhaseConfig, train_psnr
from srgan_dist.phases.schedule import Exponential, LRScheduleConfig


class PretrainConfig(PhaseConfig):
    """Settings of phase 1; the defaults are the paper's."""

    steps: int = Field(100_000, ge=1, description="updates")
    lr_schedule: LRScheduleConfig = Exponential(name="exponential", decay_every=50_000)
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1")},
        min_length=1,
        description="terms of the objective; a key names its panel loss/<key>",
    )


class PretrainPhase(Phase):
    """Minimises the weighted sum of its losses over the generator."""

    def __init__(self, config, networks, accelerator):
        super().__init__(config, networks, accelerator, {"generator": config.learning_rate})

    def update(self, batches):
        """Take one step on the mean over micro-batches [(lr [B, 1, *shape], hr [B, 1, *(s * shape)])], all of
        one size; the noise of a generator that has some is left out: its
        texture is none of what pixels can tell.

        Returns named 0-d tensors on the device, means over the micro-batches; the host waits for none of it.
        """
        self.begin(batches)
        for lr, hr, *_ in batches:
            sr = self.generator.module(lr)
            terms, total = self.content_backward(sr, hr)
            self.generator.collect_gradients()
            self.metrics.add(terms | {"loss/generator": total, "train/psnr": train_psnr(sr, hr)})
        self.start_all_reduce("generator")
        self.finish_all_reduce("generator")
        return self.commit()
