"""A network under training: its float32 weights, the copy that computes, its optimiser, its gradients over
all ranks.

Autocast turns every weight into bfloat16 by itself, and every gradient back: two launches a tensor, half of
those of an update of phase 1. Here a copy keeps the weights in bfloat16 (Micikevicius et al. 2018, "Mixed
precision training"), filled by one launch for all, with the same bits.

The discriminator's copy has a second use. The generator is trained against the discriminator's next weights,
before it is known whether this update is skipped: they are written into the copy, and the weights themselves
stay.
"""

import copy

import torch
from torch import nn

from srgan_dist.optim.adam import adam, laid_out_as, write_next_weights
from srgan_dist.optim.all_reduce import GradientAllReduce
from srgan_dist.optim.muon import Muon, split_for_muon


class TrainedNetwork:
    """A network and the module that computes for it (`module`), which share their buffers.

    network: as prepared by Accelerate, the same on every rank. accelerator: decides the precision of
    convolutions, dense layers and PReLUs; where it is float32 the network itself computes. looks_ahead:
    whether `next` is used. part: name of the only submodule that is trained; "": all of the network.
    muon_rate: learning rate of Muon for the weights of hidden layers; None: Adam for all, as `next` needs it.
    """

    def __init__(
        self,
        network,
        learning_rate,
        accelerator,
        looks_ahead=False,
        compiled=False,
        part="",
        muon_rate=None,
    ):
        dtype = autocast_dtype(accelerator)
        self.network = network
        self.copy = _copy_of(network, dtype, compiled) if dtype or looks_ahead else None
        self.module = self.copy if dtype else network
        self.parameters = list(network.parameters())
        self.copied = list(self.copy.parameters()) if self.copy else []
        self.gradients = [torch.empty_like(parameter) for parameter in self.parameters] if dtype else []
        hidden, others = split_for_muon(self.parameters) if muon_rate else ([], self.parameters)
        self.optimizers = {"": adam(others, learning_rate)}  # by what follows the network's name
        if hidden:
            self.optimizers["_muon"] = Muon(hidden, muon_rate)
        self.part = part
        self._require_gradients(network)
        self.all_reduce = GradientAllReduce(network, accelerator.num_processes)

    @torch.no_grad()
    def begin(self):
        """Begin an update: no gradients, and the copy, where it is the one that computes, has the weights."""
        self.network.zero_grad()
        if self.module is self.copy:
            torch._foreach_copy_(self.copied, self.parameters)
            self._require_gradients(self.copy)

    @torch.no_grad()
    def collect_gradients(self):
        """Add the gradients of the copy to those of the weights, in the precision of the weights, and clear
        them. A weight that had no part in the loss has the gradient 0.
        """
        for parameter in self.copied if self.module is self.copy else self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.module is not self.copy:
            return
        found = [laid_out_as(parameter.grad, parameter) for parameter in self.copied]
        if self.parameters[0].grad is None:
            torch._foreach_copy_(self.gradients, found)
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = gradient
        else:
            for gradient, more in zip(self.gradients, found, strict=True):
                gradient += more
        for parameter in self.copied:
            parameter.grad = None

    def _require_gradients(self, network):
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(self.part))

    def next(self):
        """Return the network, frozen, with the weights that the next step of its optimiser will give it."""
        write_next_weights(self.optimizers[""], [parameter.detach() for parameter in self.copied])
        return self.copy.requires_grad_(False)


def autocast_dtype(accelerator):
    """Return the type in which autocast computes convolutions; None where it is off."""
    device_type = accelerator.device.type
    with accelerator.autocast():
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def to_working_precision(network, dtype):
    """Turn the weights that autocast would turn, at every use, into its type for good; None: leave all as
    they are.
    """
    for module in network.modules() if dtype else ():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear, nn.PReLU)):
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weight.detach().to(dtype), weight.requires_grad))


def _copy_of(network, dtype, compiled):
    copied = copy.deepcopy(network)
    for module, original in zip(copied.modules(), network.modules(), strict=True):
        module._buffers.update(original._buffers)
    to_working_precision(copied, dtype)
    if compiled:
        copied.compile(dynamic=False)
    return copied.requires_grad_(False)
