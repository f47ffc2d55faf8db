"""The copy of a network that an update computes with, beside the float32 weights that the optimiser keeps
(Micikevicius et al. 2018, "Mixed precision training").

Autocast turns every weight into bfloat16 by itself, and every gradient back: two launches a tensor, half of those of an
update of phase 1. Here a copy keeps them in bfloat16, filled by one launch for all, with the same bits.

The discriminator's copy has a second use. The generator is trained against the discriminator's next weights, before it
is known whether this update may be taken: they are written into the copy, and the weights themselves stay.
"""

import copy

import torch
from torch import nn

from srgan_dist.optim.adam import laid_out_as, write_next_weights


class WorkingCopy:
    """A trained network (`master`) and the module that computes for it (`module`); they share their buffers.

    dtype: of the copy's convolutions, dense layers and PReLUs; None: the network's own, and then the network computes its
    gradients itself. looks_ahead: whether `look_ahead` is used, for which there has to be a copy in any case.
    """

    def __init__(self, master, dtype, looks_ahead=False, compiled=False):
        self.master = master
        self.copy = _copy_of(master, dtype, compiled) if dtype or looks_ahead else None
        self.module = self.copy if dtype else master
        self.parameters = list(master.parameters())
        self.copied = list(self.copy.parameters()) if self.copy else []
        self.gradients = [torch.empty_like(parameter) for parameter in self.parameters] if dtype else []

    @torch.no_grad()
    def refresh(self):
        """Fill the copy with the network's weights, where it is the copy that computes gradients."""
        if self.module is self.copy:
            torch._foreach_copy_(self.copied, self.parameters)
            self.copy.requires_grad_(True)

    @torch.no_grad()
    def collect_gradients(self):
        """Add the gradients of the copy to those of the network, in the network's precision, and clear them."""
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

    def look_ahead(self, optimizer):
        """Return the network, frozen, with the weights that the next step of its optimiser will give it."""
        write_next_weights(optimizer, [parameter.detach() for parameter in self.copied])
        return self.copy.requires_grad_(False)


def working_dtype(accelerator):
    """Return the type in which autocast computes convolutions; None where it is off."""
    device_type = accelerator.device.type
    with accelerator.autocast():
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def to_working_precision(network, dtype):
    """Turn the weights that autocast would turn, at every use, into its type for good; None: leave all as they are."""
    for module in network.modules() if dtype else ():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.PReLU)):
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
