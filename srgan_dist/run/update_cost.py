"""What an update of a phase costs, before any memory is taken: arithmetic, and memory of a rank.

Networks and losses are built and run on PyTorch's meta device, whose tensors have shapes and types but no
values.
"""

import contextlib
from dataclasses import dataclass
from functools import partial

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from srgan_dist.losses import VGGLossConfig, build_loss
from srgan_dist.losses.gan import r1_penalty
from srgan_dist.models import build_discriminator, build_generator, noise_channels
from srgan_dist.models.layers import recompute_blocks
from srgan_dist.models.summary import count_parameters
from srgan_dist.optim.trained_network import to_working_precision

# Of a network that is trained: weights, gradients, Adam's two averages; in bfloat16 a copy and its gradients
BYTES_PER_WEIGHT = {"no": 16, "bf16": 20}
IN_BF16 = {torch.conv2d, torch.conv3d, torch.prelu, torch.nn.functional.linear}


@dataclass(frozen=True)
class UpdateCost:
    """flop: floating-point operations per crop, of convolutions and matrix products; a multiplication and an
    addition are two. crop_bytes: what is kept of a crop for the backward pass when that is most; results that
    are used at once, and the workspace of convolutions, are left out. fixed_bytes: weights, gradients and
    averages of all networks of the phase.
    """

    flop: float
    crop_bytes: float
    fixed_bytes: int

    def bytes_of(self, crops):
        """Return the memory of a number of crops at a time."""
        return self.fixed_bytes + crops * self.crop_bytes


def update_cost(config, phase, precision, crops):
    """Return the UpdateCost of a phase, by its settings, with a number of crops at a time on a rank.

    precision: "no" or "bf16". The update is that of `phases`: SR is computed once, or once more where there
    are micro-batches; the discriminator learns from HR and SR, and then judges SR.
    """
    with torch.device("meta"), MetaAutocast(precision), FlopCounterMode(display=False) as counter:
        networks, losses = _build(config, phase, precision)
        kept = _update(config, phase, networks, losses, crops)
    weights = {name: count_parameters(network) for name, network in networks.items()}
    fixed = BYTES_PER_WEIGHT[precision] * sum(weights.values())
    if precision == "no":  # the next weights are computed beside the present ones
        fixed += 4 * weights.get("discriminator", 0)
    fixed += 4 * weights["generator"] * (phase.ema_decay is not None)
    frozen = [parameter for loss in losses.values() for parameter in loss.parameters()]
    fixed += sum(parameter.nbytes for parameter in frozen)
    return UpdateCost(counter.get_total_flops() / crops, kept / crops, fixed)


class MetaAutocast(TorchFunctionMode):
    """Autocast, which does not know the meta device: convolutions, dense layers and PReLU take bfloat16."""

    def __init__(self, precision):
        super().__init__()
        self.low = precision == "bf16"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.low and function in IN_BF16:
            args = [x.bfloat16() if isinstance(x, torch.Tensor) else x for x in args]
        return function(*args, **(kwargs or {}))


def with_random_vgg(phase):
    """Return the settings of a phase with untrained VGG networks, which need no file."""
    losses = {
        key: loss.model_copy(update={"weights": "random"}) if isinstance(loss, VGGLossConfig) else loss
        for key, loss in phase.losses.items()
    }
    return phase.model_copy(update={"losses": losses})


def _build(config, phase, precision):
    """Return ({name: network}, {name: loss}) of a phase."""
    networks = {"generator": build_generator(config.generator)}
    if config.activation_checkpointing:
        recompute_blocks(networks["generator"])
    if phase.needs_discriminator:
        ndim = config.generator.ndim
        networks["discriminator"] = build_discriminator(config.discriminator, config.hr_crop, ndim)
    part = "texture." if getattr(phase, "trains", "all") == "texture" else ""
    for name, parameter in networks["generator"].named_parameters():
        parameter.requires_grad_(name.startswith(part))
    losses = {
        name: build_loss(loss, config.generator.scale).to("meta")
        for name, loss in with_random_vgg(phase).losses.items()
    }
    for module in (*networks.values(), *losses.values()):
        to_working_precision(module, torch.bfloat16 if precision == "bf16" else None)
    return networks, losses


def _update(config, phase, networks, losses, crops):
    """Compute the gradients of an update; returns the bytes kept for the backward pass when they are most."""
    ndim = config.generator.ndim
    lr, hr = (torch.empty(crops, 1, *[side] * ndim) for side in (config.data.lr_crop, config.hr_crop))
    channels = noise_channels(config.generator) if phase.needs_discriminator else 0
    noise = [torch.empty(crops, channels, *hr.shape[2:])] if channels else []
    generator, discriminator = networks["generator"], networks.get("discriminator")
    if discriminator and config.gradient_accumulation_steps > 1:
        with torch.no_grad():
            generator(lr, *noise)
    with kept_bytes(networks, losses) as of_generator:
        sr = generator(lr, *noise).float()
    leaf = sr.detach().requires_grad_()
    terms = [partial(loss, leaf, hr) for loss in losses.values()]
    if discriminator:
        terms.insert(0, partial(_discriminator_loss, phase, discriminator, leaf.detach(), hr))
        terms.append(partial(_adversarial_loss, phase, discriminator, leaf, hr))
    most = 0
    for term in terms:
        with kept_bytes(networks, losses) as kept:
            value = term()
        value.backward()
        most = max(most, kept[0])
    sr.backward(leaf.grad)
    return of_generator[0] + most


def _discriminator_loss(phase, discriminator, sr, hr):
    # A clone, for the counter takes no gradient at a leaf
    hr = hr.detach().requires_grad_(phase.r1_gamma is not None).clone()
    real, fake = (logits.float() for logits in discriminator(hr, sr))
    loss = phase.objective.discriminator(real, fake)
    return loss + r1_penalty(real, hr) if phase.r1_gamma else loss


def _adversarial_loss(phase, discriminator, sr, hr):
    critic, real = discriminator.requires_grad_(False), None
    if phase.objective.generator_sees_real:
        with torch.no_grad():
            real = critic(hr).float()
    return phase.objective.generator(real, critic(sr).float())


@contextlib.contextmanager
def kept_bytes(networks, losses):
    """Count what autograd keeps of the operations inside, [bytes], without weights."""
    kept, found = {}, [0]
    weights = {
        tensor.untyped_storage()._cdata
        for module in (*networks.values(), *losses.values())
        for tensor in (*module.parameters(), *module.buffers())
    }

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found
    found[0] = sum(kept.values())
