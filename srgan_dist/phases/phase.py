"""A phase: networks under training, losses, and an update of both; all that phases have in common is wired
here, once.

A phase of its own defines `update(batches)` from these acts: `begin`, `backward` and `content_backward` on
every micro-batch, `start_all_reduce` and `finish_all_reduce` of every network, `commit`.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field, field_validator
from torch.nn import functional as F

from srgan_dist.losses import build_loss
from srgan_dist.optim.adam import set_learning_rate
from srgan_dist.optim.ema import EMA
from srgan_dist.optim.muon import AdamConfig, MuonConfig
from srgan_dist.optim.trained_network import TrainedNetwork, autocast_dtype, to_working_precision
from srgan_dist.optim.update_guard import UpdateGuard
from srgan_dist.phases.schedule import LRScheduleConfig
from srgan_dist.utils.settings import Settings

# Panels loss/... that are no losses of the settings
RESERVED_NAMES = {"adversarial", "generator", "discriminator", "r1"}


class PhaseConfig(Settings):
    """Settings that every phase has; a phase adds its `losses`: name -> settings."""

    needs_discriminator: ClassVar[bool] = False
    best_by: ClassVar[str] = "psnr"  # metric of a validation, the more the better, that chooses weights/best

    steps: int = Field(ge=1, description="updates")
    max_seconds: float | None = Field(
        None, gt=0, description="end the phase after this time even if steps are left"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of Adam")
    optimizer: Annotated[AdamConfig | MuonConfig, Field(discriminator="name")] = Field(
        AdamConfig(name="adam"), description="of the generator; the discriminator takes Adam"
    )
    lr_schedule: LRScheduleConfig
    max_grad_norm: float | None = Field(
        None,
        gt=0,
        description="gradient clipping: norm to which the gradient of a network is scaled; null: off",
    )
    max_spike: float | None = Field(
        None,
        gt=1,
        description="skip updates in which the loss or the gradient norm of a network exceeds this multiple"
        " of its mean"
        " over the last 100 updates, e.g. 20; null: only those in which one is not finite",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of an exponential moving average of the generator's weights, which then is validated"
        " and exported,"
        " e.g. 0.999; null: the weights themselves, as in the paper",
    )
    weights: str | None = Field(
        None, description="generator weights (.safetensors) to take instead of training this phase"
    )
    init_weights: str | None = Field(
        None,
        description="generator weights (.safetensors, or rocks_x4, which come with srgan_dist) with which"
        " this phase, the first, begins (fine-tuning); of another scale the trunk is taken and the upsampling"
        " begins new; null: random weights, or those of the phase before",
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

    def loss_weights(self):
        """Return the weight of every term of the generator's objective: {name: weight}."""
        return {name: loss.weight for name, loss in self.losses.items()}

    def initial_weights(self):
        """Return {setting: network} of the files with whose weights the phase begins."""
        settings = {"init_weights": "generator", "discriminator_init_weights": "discriminator"}
        return {name: network for name, network in settings.items() if getattr(self, name, None) is not None}


def check_begins_first(phases):
    """Raise ValueError where a phase would begin with weights from a file in place of what one before it has
    learnt, or never use them. phases: [(name, settings)] in their order.
    """
    for number, (name, phase) in enumerate(phases):
        for setting, network in phase.initial_weights().items():
            if phase.weights is not None:
                raise ValueError(
                    f"{name}.{setting} needs {name} to be trained, which {name}.weights skips; use one of"
                    " them"
                )
            before = [
                other
                for other, settings in phases[:number]
                if network == "generator" or settings.needs_discriminator and settings.weights is None
            ]
            if before:
                raise ValueError(
                    f"{name}.{setting} would replace the {network} of {before[0]}, which comes before; leave"
                    f" that phase out ({before[0]}: null), or give the file to it"
                )


class Phase:
    """Base of the phases.

    config: PhaseConfig. networks: models.networks.Networks. base_rates: {network: learning rate before the
    schedule} of the networks that the phase trains; they step together, or the update is skipped
    (optim/update_guard.py). part: the only submodule of the generator that is trained; "": all of it.
    """

    def __init__(self, config, networks, accelerator, base_rates, part=""):
        self.config, self.steps, self.accelerator = config, config.steps, accelerator
        muon_rate = config.optimizer.learning_rate if config.optimizer.name == "muon" else None
        self.losses, self.seed = build_losses(config, networks, accelerator), networks.seed
        self.networks = {
            name: TrainedNetwork(
                getattr(networks, name),
                rate,
                accelerator,
                looks_ahead=name == "discriminator",
                compiled=networks.compiled,
                part=part if name == "generator" else "",
                muon_rate=muon_rate if name == "generator" else None,
            )
            for name, rate in base_rates.items()
        }
        self.generator = self.networks["generator"]
        self.optimizers = {
            name + suffix: optimizer
            for name, trained in self.networks.items()
            for suffix, optimizer in trained.optimizers.items()
        }
        self.guard = UpdateGuard(
            {name: trained.network for name, trained in self.networks.items()},
            config.max_grad_norm,
            config.max_spike,
            accelerator.device,
        )
        networks.ema = EMA(networks.generator, config.ema_decay) if config.ema_decay else None
        self.ema = networks.ema
        self.base_rates = base_rates | {"generator_muon": muon_rate}
        self.rates = {name: self.base_rates[name] for name in self.optimizers}  # of the last update
        self.step = 0  # updates taken
        self.progress = 0.0  # share of the phase that is over, by steps or by time; set by the training

    # The acts of an update

    def begin(self, batches):
        """Begin an update on micro-batches: learning rates by the schedule, no gradients, a way back."""
        self.guard.begin()
        for name, optimizer in self.optimizers.items():
            schedule = self.config.lr_schedule
            self.rates[name] = schedule.learning_rate(self.base_rates[name], self.step, self.progress)
            set_learning_rate(optimizer, self.rates[name])
        for trained in self.networks.values():
            trained.begin()
        for loss in self.losses.values():
            if hasattr(loss, "begin"):
                loss.begin(self.seed, self.step)
        self.step += 1
        self.micro_batches = len(batches) * self.accelerator.num_processes
        self.metrics, self.norms = MetricAverager(len(batches)), {}

    def backward(self, name, loss):
        """Compute the gradient of a term of a network's loss on one micro-batch, as its part of the mean over
        all.
        """
        loss.backward(gradient=self.guard.backward_scale(name, loss, self.micro_batches))

    def content_backward(self, sr, hr):
        """Compute the gradient at sr of the losses that compare it with hr.

        Returns ({"loss/<name>": unweighted loss}, their weighted sum), detached 0-d tensors.
        """
        terms, total = content_losses(self.losses, self.config.losses, sr, hr, self.accelerator)
        self.backward("generator", total)
        return terms, total.detach()

    def start_all_reduce(self, name):
        """Begin to sum the gradients of a network over ranks; other work can be done until
        `finish_all_reduce`.
        """
        self.networks[name].all_reduce.start(self.guard.losses.get(name))

    def finish_all_reduce(self, name):
        """Wait for the sum, check and clip the gradients."""
        self.norms[name] = self.guard.check(name, self.networks[name].all_reduce.wait())

    def commit(self):
        """Step all optimisers, or none where the update is skipped; returns the metrics, 0-d tensors on the
        device.
        """
        self.guard.commit(*self.optimizers.values())
        if self.ema:
            self.ema.update(self.guard.found_inf)
        norms = {f"health/grad_norm/{name}": self.norms[name] for name in self.networks}
        return {**self.metrics.means, **norms, "health/skipped": self.guard.found_inf}

    # What the training asks of a phase

    def loss_weights(self):
        """Return the weight of every term of the generator's objective at the last update: {name: weight}."""
        return self.config.loss_weights()

    def learning_rates(self):
        """Return the learning rates of the last update: {"lr/<network>": rate}, also of generator_muon."""
        return {f"lr/{name}": rate for name, rate in self.rates.items()}

    def stateful(self):
        """Return what a checkpoint holds of the phase: {name: module or optimiser}."""
        state = {name: trained.network for name, trained in self.networks.items()}
        state |= {f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()}
        if self.ema:
            state["generator_average"] = self.ema.synchronised()
        return state | self.guard.stateful()


def build_losses(config, networks, accelerator):
    """Build the losses of a phase from its settings: {name: module}, laid out as the networks, their weights
    in the precision that autocast would give them, and compiled where the networks are.
    """
    layout = torch.channels_last if networks.channels_last else torch.contiguous_format
    losses = {
        name: build_loss(loss, networks.scale).to(accelerator.device, memory_format=layout)
        for name, loss in config.losses.items()
    }
    for loss in losses.values():
        to_working_precision(loss, autocast_dtype(accelerator))
        if networks.compiled:
            loss.compile(dynamic=False)
    return losses


def content_losses(losses, configs, sr, hr, accelerator):
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
        self.count, self.means = count, {}

    def add(self, metrics):
        if self.count > 1:
            metrics = {name: self.means.get(name, 0) + value / self.count for name, value in metrics.items()}
        self.means |= metrics


def train_psnr(sr, hr):
    """Return the PSNR of a batch in dB, from its mean squared error; the range is [-1, 1], the peak 2."""
    return 10 * torch.log10(4 / F.mse_loss(sr.detach(), hr).clamp(min=1e-10))
