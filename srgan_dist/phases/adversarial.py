"""Phase 2: generator against discriminator (SRGAN), on top of the pixel and perceptual losses."""

import contextlib
from typing import ClassVar

import torch
from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.gan import adversarial_loss, discriminator_loss
from srgan_dist.losses.perceptual import VGGLossConfig
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


class AdversarialConfig(PhaseConfig):
    """Settings of phase 2; the defaults are the paper's."""

    needs_discriminator: ClassVar[bool] = True

    steps: int = Field(150_000, ge=1, description="updates")
    discriminator_learning_rate: float | None = Field(None, gt=0, description="null: the generator's")
    decay_every: int | None = Field(
        100_000, ge=1, description="updates per tenfold fall of the learning rates; null: constant"
    )
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1"), "perceptual": VGGLossConfig(name="vgg19")},
        min_length=1,
        description="terms of the generator's objective beside the adversarial one; a key names its panel loss/<key>",
    )
    adversarial_weight: float = Field(
        5e-3, gt=0, description="factor of the adversarial term: the paper's beta"
    )
    adversarial_warmup: int = Field(
        0, ge=0, description="first updates, in which the adversarial term rises to its full weight"
    )

    def terms(self):
        return super().terms() | {"adversarial": self.adversarial_weight}


class AdversarialPhase:
    """Alternates one discriminator and one generator update per batch.

    networks.generator and networks.discriminator: as prepared by Accelerate, the same on every rank.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        self.generator, self.discriminator = networks.generator, networks.discriminator
        self.losses = build_losses(config, networks, accelerator)
        dtype = working_dtype(accelerator)
        self.working_generator = WorkingCopy(self.generator, dtype, compiled=networks.compiled)
        self.working_discriminator = WorkingCopy(
            self.discriminator, dtype, looks_ahead=True, compiled=networks.compiled
        )
        self.generator_optimizer = adam(self.generator, config.learning_rate)
        self.discriminator_optimizer = adam(self.discriminator, config.learning_rate)
        self.generator_gradients = GradientAllReduce(self.generator, accelerator.num_processes)
        self.discriminator_gradients = GradientAllReduce(self.discriminator, accelerator.num_processes)
        self.guard = UpdateGuard(
            {"generator": self.generator, "discriminator": self.discriminator},
            config.max_grad_norm,
            config.max_spike,
            accelerator.device,
        )
        self.ema = ema_of(config, networks)
        self.base_rates = {
            "generator": config.learning_rate,
            "discriminator": config.discriminator_learning_rate or config.learning_rate,
        }
        self.rates = dict(self.base_rates)  # of the last update
        self.adversarial_weight = torch.zeros((), device=accelerator.device)  # of the last update
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over; set by the training

    def update(self, batches):
        """Take one step of both networks on micro-batches [(lr [B, 1, H, W], hr [B, 1, s*H, s*W])], all of one size.

        Returns named 0-d tensors on the device: means over the micro-batches.
        """
        optimizers = {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}
        for name, optimizer in optimizers.items():
            self.rates[name] = scheduled(self.config, self.base_rates[name], self.step, self.progress)
            set_learning_rate(optimizer, self.rates[name])
        self.step += 1
        self.adversarial_weight.fill_(self.terms()["adversarial"])
        return self.compute(batches)

    def compute(self, batches):
        """Do the work of an update on the device: the host waits for none of it and decides nothing by its numbers.

        The discriminator learns from all micro-batches before the generator's adversarial term sees any, as it does when
        they are one. The graph of a single micro-batch is kept from one network to the other; of several, one lives at
        a time, and the generator's forward is computed again.
        """
        self.guard.begin()
        self.generator_optimizer.zero_grad()
        self.discriminator_optimizer.zero_grad()
        self.working_generator.refresh()
        self.working_discriminator.refresh()
        alone, metrics = len(batches) == 1, MetricAverager(len(batches))
        parts = len(batches) * self.accelerator.num_processes

        # The discriminator's gradient on HR and SR; its sum over ranks begins
        with contextlib.nullcontext() if alone else unchanged_buffers(self.generator):
            for lr, hr in batches:
                with torch.set_grad_enabled(alone):
                    sr = self.working_generator.module(lr)
                metrics.add(self._discriminator_backward(sr.detach(), hr, parts))
        self.discriminator_gradients.start(self.guard.losses.get("discriminator"))

        # The generator's gradient: at SR by the content losses, at SR by the next discriminator, and from there back
        for number, (lr, hr) in enumerate(batches):
            sr = sr if alone else self.working_generator.module(lr)
            at_sr = sr.detach().requires_grad_()
            terms, content = self._content_backward(at_sr, hr, parts)
            if number == 0:  # while the content losses were computed, the discriminator's gradients have come
                discriminator_norm = self.guard.check("discriminator", self.discriminator_gradients.wait())
                critic = self.working_discriminator.look_ahead(self.discriminator_optimizer)
            terms |= self._adversarial_backward(critic, at_sr, content, parts)
            sr.backward(at_sr.grad)
            self.working_generator.collect_gradients()
            metrics.add(terms | {"train/psnr": train_psnr(sr, hr)})
        self.generator_gradients.start(self.guard.losses.get("generator"))
        generator_norm = self.guard.check("generator", self.generator_gradients.wait())

        # Both steps, or none
        self.guard.commit(self.discriminator_optimizer, self.generator_optimizer)
        if self.ema:
            self.ema.update(self.guard.found_inf)
        return {
            **metrics.metrics,
            "health/grad_norm/generator": generator_norm,
            "health/grad_norm/discriminator": discriminator_norm,
            "health/skipped": self.guard.found_inf,
        }

    def terms(self):
        """Return the factor of every term of the generator's objective at the last update: {name: weight}; that of the
        adversarial term is full from the end of the warm-up on.
        """
        risen = min(1, self.step / (self.config.adversarial_warmup + 1))
        return self.config.terms() | {"adversarial": risen * self.config.adversarial_weight}

    def learning_rates(self):
        """Return the learning rates of the last update."""
        return {f"lr/{name}": rate for name, rate in self.rates.items()}

    def _discriminator_backward(self, sr, hr, parts):
        """Add to the discriminator's gradient that of its loss on one of the parts of an update."""
        discriminator = self.working_discriminator.module
        real, fake = discriminator(hr, sr)
        loss = discriminator_loss(real, fake)
        loss.backward(gradient=self.guard.backward_scale("discriminator", loss, parts))
        self.working_discriminator.collect_gradients()
        return {
            "loss/discriminator": loss.detach(),
            "d/real": real.detach().sigmoid().mean(),
            "d/fake": fake.detach().sigmoid().mean(),
        }

    def _content_backward(self, sr, hr, parts):
        """Add to the gradient at sr that of the losses that compare it with hr; returns them by name, and their sum."""
        terms, total = generator_terms(self.losses, self.config.losses, sr, hr, self.accelerator)
        total.backward(gradient=self.guard.backward_scale("generator", total, parts))
        return terms, total.detach()

    def _adversarial_backward(self, critic, sr, content, parts):
        """Add to the gradient at sr that of the adversarial term; critic: the discriminator, frozen, whose answer counts."""
        adversarial = adversarial_loss(critic(sr))
        weighted = self.adversarial_weight * adversarial
        weighted.backward(gradient=self.guard.backward_scale("generator", weighted, parts))
        return {"loss/adversarial": adversarial.detach(), "loss/generator": content + weighted.detach()}

    def stateful(self):
        """Return what a checkpoint must hold beside the generator: name -> module or optimiser."""
        average = {"generator_average": self.ema.synchronised()} if self.ema else {}
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
            **average,
            **self.guard.stateful(),
        }


@contextlib.contextmanager
def unchanged_buffers(network):
    """Put the buffers of a network back after what is computed only to be computed once more."""
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
