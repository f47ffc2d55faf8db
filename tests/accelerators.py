"""What the phases use of an Accelerator, for any device: Accelerate itself knows one per process; and what
they change.
"""

from types import MethodType, SimpleNamespace

import torch
from accelerate.utils import convert_outputs_to_fp32

from srgan_dist.utils.tensor_files import tensors_of


def accelerator_on(device, precision="no", ranks=1):
    device = torch.device(device)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def prepare_model(network, evaluation_mode):
        network.forward = MethodType(convert_outputs_to_fp32(autocast()(type(network).forward)), network)
        return network

    return SimpleNamespace(device=device, num_processes=ranks, autocast=autocast, prepare_model=prepare_model)


def state_of(phase):
    """Return copies on the host of all that an update of a phase changes: {name: tensor}."""
    return {
        f"{label}.{name}": tensor.detach().cpu().clone()
        for label, item in phase.stateful().items()
        for name, tensor in tensors_of(item).items()
    }
