"""Phase 2: generator against discriminator (SRGAN), on top of the pixel and perceptual losses."""

import contextlib
from typing import ClassVar, Literal

import torch
from pydantic import Field

from srgan_dist.losses import LossConfig
from srgan_dist.losses.gan import ObjectiveConfig, Standard, r1_penalty
from srgan_dist.losses.perceptual import VGGLossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.phases.phase import Phase, PhaseConfig, train_psnr
from srgan_dist.phases.schedule import Exponential, LRScheduleConfig


class AdversarialConfig(PhaseConfig):
    """Settings of phase 2; the defaults are the paper's."""

    needs_discriminator: ClassVar[bool] = True
    best_by: ClassVar[str] = "texture_score"

    steps: int = Field(150_000, ge=1, description="updates")
    discriminator_learning_rate: float | None = Field(None, gt=0, description="null: the generator's")
    discriminator_init_weights: str | None = Field(
        None,
        description="discriminator.safetensors of a checkpoint with which this phase begins (fine-tuning),"
        " e.g. runs/NAME/checkpoints/step-00250000/discriminator.safetensors; null: random weights",
    )
    trains: Literal["all", "texture"] = Field(
        "all",
        description="texture: of the generator only what makes texture of noise (generator.noise); what phase"
        " 1 has learnt stays",
    )
    lr_schedule: LRScheduleConfig = Exponential(name="exponential", decay_every=100_000)
    losses: dict[str, LossConfig] = Field(
        {"pixel": L1LossConfig(name="l1"), "perceptual": VGGLossConfig(name="vgg19")},
        min_length=1,
        description="terms of the generator's objective beside the adversarial one; a key names its panel"
        " loss/<key>",
    )
    objective: ObjectiveConfig = Field(Standard(), description="GAN objective of both networks")
    adversarial_weight: float = Field(
        5e-3, gt=0, description="weight of the adversarial term: the paper's beta"
    )
    adversarial_warmup: int = Field(
        0,
        ge=0,
        description="first updates, in which the weight of the adversarial term rises to its full value",
    )
    r1_gamma: float | None = Field(
        None,
        gt=0,
        description="R1: gamma / 2 times the squared gradient of the logits at HR crops; null: off",
    )

    def loss_weights(self):
        return super().loss_weights() | {"adversarial": self.adversarial_weight}


class AdversarialPhase(Phase):
    """Takes one discriminator step and one generator step per batch.

    The generator is trained against the discriminator's next weights, as if that had stepped first; both step
    at the end of the update, or neither does.
    """

    def __init__(self, config, networks, accelerator):
        rates = {
            "generator": config.learning_rate,
            "discriminator": config.discriminator_learning_rate or config.learning_rate,
        }
        if texture := getattr(networks.generator, "texture", None):
            texture.start()
        part = "texture." if config.trains == "texture" else ""
        super().__init__(config, networks, accelerator, rates, part)
        self.discriminator, self.objective = self.networks["discriminator"], config.objective
        self.adversarial_weight = torch.zeros((), device=accelerator.device)  # of the last update

    def update(self, batches):
        """Take one step of both networks on micro-batches [(lr [B, 1, *shape], hr [B, 1, *(s * shape)])], all
        of one size; for a generator with noise [(lr, hr, noise)].

        Returns named 0-d tensors on the device, means over the micro-batches; the host waits for none of it.
        The graph of a single micro-batch is kept from one network to the other; of several, one is in memory
        at a time, and the generator's forward is computed again.
        """
        self.begin(batches)
        self.adversarial_weight.fill_(self.loss_weights()["adversarial"])
        single = len(batches) == 1

        # The discriminator's gradients on all micro-batches; their sum over ranks begins
        with contextlib.nullcontext() if single else unchanged_buffers(self.generator.network):
            for lr, hr, *noise in batches:
                with torch.set_grad_enabled(single):
                    sr = self.generator.module(lr, *noise)
                self._discriminator_backward(sr.detach(), hr)
        self.start_all_reduce("discriminator")

        # The generator's gradients: at sr by the content losses and the next discriminator, and from there to
        # the weights
        for number, (lr, hr, *noise) in enumerate(batches):
            sr = sr if single else self.generator.module(lr, *noise)
            leaf = sr.detach().requires_grad_()
            terms, content = self.content_backward(leaf, hr)
            if number == 0:  # the discriminator's gradients have been summed meanwhile
                self.finish_all_reduce("discriminator")
                critic = self.discriminator.next()
            terms |= self._generator_backward(critic, leaf, hr, content)
            sr.backward(leaf.grad)
            self.generator.collect_gradients()
            self.metrics.add(terms | {"train/psnr": train_psnr(sr, hr)})
        self.start_all_reduce("generator")
        self.finish_all_reduce("generator")
        return self.commit()

    def _discriminator_backward(self, sr, hr):
        """Compute the discriminator's gradients on one micro-batch."""
        gamma = self.config.r1_gamma
        hr = hr.detach().requires_grad_(gamma is not None)
        real, fake = self.discriminator.module(hr, sr)
        loss = self.objective.discriminator(real, fake)
        penalty = r1_penalty(real, hr) if gamma else None
        self.backward("discriminator", loss if penalty is None else loss + gamma / 2 * penalty)
        self.discriminator.collect_gradients()

        d_real, d_fake = self.objective.probabilities(real.detach(), fake.detach())
        self.metrics.add(
            {"loss/discriminator": loss.detach(), "d/real": d_real.mean(), "d/fake": d_fake.mean()}
        )
        if penalty is not None:
            self.metrics.add({"loss/r1": penalty.detach()})

    def _generator_backward(self, critic, sr, hr, content):
        """Add to the gradient at sr that of the adversarial term; critic: the next discriminator, frozen."""
        real = None
        if self.objective.generator_sees_real:
            with torch.no_grad():
                real = critic(hr)
        adversarial = self.objective.generator(real, critic(sr))
        weighted = self.adversarial_weight * adversarial
        self.backward("generator", weighted)
        return {"loss/adversarial": adversarial.detach(), "loss/generator": content + weighted.detach()}

    def loss_weights(self):
        """Return the weight of every term of the generator's objective at the last update: {name: weight};
        that of the adversarial term is full from the end of the warm-up on.
        """
        risen = min(1, self.step / (self.config.adversarial_warmup + 1))
        return self.config.loss_weights() | {"adversarial": risen * self.config.adversarial_weight}


@contextlib.contextmanager
def unchanged_buffers(network):
    """Put the buffers of a network back after a forward that is only a first pass."""
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
