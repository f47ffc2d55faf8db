"""The updates that the step benchmark compares: ours, the report's, and the textbook's in DDP.

Ours is that of `phases`, on networks built from a config as `train` builds them, in every combination of
precision, memory format and compilation. All train the same networks from the same weights; VGG has random
weights, which cost as much as trained ones.
"""

import inspect
import math

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from srgan_dist.benchmarks.names import PLAIN, VARIANTS
from srgan_dist.losses.perceptual import LAYERS, VGGLossConfig, vgg19_features
from srgan_dist.models import noise_channels
from srgan_dist.models.layers import CONV, PReLU
from srgan_dist.models.upsampling import NEAREST_CONVS
from srgan_dist.optim.adam import adam
from srgan_dist.phases import build_phase
from srgan_dist.phases.phase import build_losses, content_losses, train_psnr
from srgan_dist.run.training_run import build_networks
from srgan_dist.run.update_cost import with_random_vgg


def precision_of(variant):
    """Return "fp32" or "bf16"."""
    return "bf16" if "bf16" in variant else "fp32"


def without_weight_files(config):
    """Return the config with untrained VGG networks, which need no file."""
    return config.model_copy(update={name: with_random_vgg(phase) for name, phase in config.phases()})


def build(variant, config, name):
    """Return update([(lr, hr)]) of a variant, for phase `name` of a config."""
    config = config.model_copy(update=VARIANTS["fp32"] if variant == PLAIN else VARIANTS[variant])
    networks = build_networks(config, _accelerator(config.mixed_precision))
    phase_config = dict(config.phases())[name]
    if config.compile:  # a row that is compiled in part only would be slow without a visible reason
        torch._dynamo.reset()
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    if variant == PLAIN:
        return PlainLoop(phase_config, networks).update
    networks.share_weights()
    loop = DDPLoop if variant.startswith("ddp-") else build_phase
    return loop(phase_config, networks, networks.accelerator).update


def _accelerator(precision):
    """Return an accelerator of this precision; Accelerate has one per process, which can be disabled."""
    return Accelerator(kwargs_handlers=[] if precision == "bf16" else [AutocastKwargs(enabled=False)])


def crops_of(config, batch, device):
    """Return one micro-batch of random crops: [(lr [B, 1, *[c]], hr [B, 1, *[s*c]])] in [-1, 1], with as
    many axes as the generator has dimensions; for a generator with noise also that.
    """
    generator, channels = torch.Generator().manual_seed(0), noise_channels(config.generator)
    shapes = [(1, config.data.lr_crop), (1, config.hr_crop), *[(channels, config.hr_crop)] * (channels > 0)]
    return [
        tuple(
            (torch.rand(batch, number, *[side] * config.generator.ndim, generator=generator) * 2 - 1).to(
                device
            )
            for number, side in shapes
        )
    ]


class DDPLoop:
    """The textbook loop: both networks in DistributedDataParallel, two steps, frozen VGG.

    The discriminator is frozen in the generator's pass. There is no update guard, and no norm of gradients.
    """

    def __init__(self, config, networks, accelerator):
        self.config, self.accelerator = config, accelerator
        self.losses = build_losses(config, networks, accelerator)
        if not torch.distributed.is_initialized():  # one process: a group of its own
            backend = "nccl" if accelerator.device.type == "cuda" else "gloo"
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        self.generator = _parallel(networks.generator, accelerator.device)
        self.generator_optimizer = adam(networks.generator.parameters(), config.learning_rate)
        self.discriminator = None
        if config.needs_discriminator:
            self.discriminator = _parallel(networks.discriminator, accelerator.device)
            self.discriminator_optimizer = adam(networks.discriminator.parameters(), config.learning_rate)

    def update(self, batches):
        """Take one step of the networks on one micro-batch, as a phase does; returns 0-d tensors."""
        ((lr, hr, *noise),) = batches
        sr = self.generator(lr, *noise)
        metrics = self._discriminator_step(sr.detach(), hr) if self.discriminator else {}
        terms, total = content_losses(self.losses, self.config.losses, sr, hr, self.accelerator)
        if self.discriminator:
            critic = self.discriminator.module.requires_grad_(False)
            terms["loss/adversarial"] = self.config.objective.generator(None, critic(sr))
            total = total + self.config.adversarial_weight * terms["loss/adversarial"]
            critic.requires_grad_(True)
        self.generator_optimizer.zero_grad()
        total.backward()
        self.generator_optimizer.step()
        return metrics | terms | {"loss/generator": total.detach(), "train/psnr": train_psnr(sr, hr)}

    def _discriminator_step(self, sr, hr):
        with self.accelerator.autocast():
            real, fake = self.discriminator(hr), self.discriminator(sr)
        loss = self.config.objective.discriminator(real, fake)
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        return {
            "loss/discriminator": loss.detach(),
            "d/real": real.detach().sigmoid().mean(),
            "d/fake": fake.detach().sigmoid().mean(),
        }


def _parallel(network, device):
    options = inspect.signature(DistributedDataParallel).parameters
    names = "forward_sync_buffers", "broadcast_buffers"  # of newer and older versions of PyTorch
    sync_buffers = next(name for name in names if name in options)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, devices, **{sync_buffers: False})


class PlainLoop:
    """The training loop of the reproduction report, one process in float32, as it is written there.

    VGG computes gradients for its weights, and for HR too; so does the discriminator in the generator's pass.
    The losses take sigmoids; Adam goes from tensor to tensor; losses are read after every update; PReLU is
    PyTorch's; nearest neighbours make the image that the next layer convolves. It differs from the report in
    one point: there p(SR) was detached, so that the adversarial term did not reach the generator.
    """

    def __init__(self, config, networks):
        self.config, self.discriminator, self.vgg = config, None, None
        self.generator = _with_plain_layers(networks.generator)
        self.generator_optimizer = self._adam(self.generator)
        if config.needs_discriminator:
            self.discriminator = networks.discriminator
            self.discriminator_optimizer = self._adam(self.discriminator)
        for loss in config.losses.values():
            if isinstance(loss, VGGLossConfig):
                self.perceptual = loss
                self.vgg = vgg19_features(loss)[: LAYERS[loss.layer]].to(networks.accelerator.device)

    def update(self, batches):
        """Take one step of the networks of the phase on one micro-batch, as a phase does; returns floats."""
        ((lr, hr, *noise),) = batches
        self.generator_optimizer.zero_grad()
        sr = self.generator(lr, *noise)
        loss, l2 = F.l1_loss(sr, hr), F.mse_loss(sr, hr)
        if self.discriminator:
            self._discriminator_step(sr.detach(), hr)
            probability = self.discriminator(sr).sigmoid()
            adversarial = F.binary_cross_entropy(probability, torch.ones_like(probability))
            loss = loss + self.config.adversarial_weight * adversarial
        if self.vgg:
            loss = loss + self.perceptual.weight * F.mse_loss(self._features(sr), self._features(hr))
        loss.backward()
        self.generator_optimizer.step()
        return {"loss": loss.item(), "l2": l2.item(), "psnr": 10 * math.log10(4 / l2.item())}

    def _discriminator_step(self, sr, hr):
        self.discriminator_optimizer.zero_grad()
        real, fake = self.discriminator(hr).sigmoid(), self.discriminator(sr).sigmoid()
        loss = F.binary_cross_entropy(real, torch.ones_like(real))
        loss = loss + F.binary_cross_entropy(fake, torch.zeros_like(fake))
        loss.backward()
        self.discriminator_optimizer.step()

    def _features(self, image):
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        return self.vgg(((image + 1) / 2 - mean) / std)

    def _adam(self, network):
        return torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, foreach=False)


def _with_plain_layers(network):
    """Replace our PReLU by PyTorch's, and convolutions behind nearest neighbours by these and a convolution,
    with the same weights; returns the network.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PReLU):
                plain = nn.PReLU(child.num_parameters)
                plain.weight = child.weight
                setattr(parent, name, plain)
            elif isinstance(child, NEAREST_CONVS):
                conv = CONV[child.weight.dim() - 2]
                plain = conv(child.in_channels, child.out_channels, child.kernel_size, padding=child.padding)
                plain.weight, plain.bias = child.weight, child.bias
                setattr(parent, name, nn.Sequential(nn.Upsample(scale_factor=child.factor), plain))
    return network
