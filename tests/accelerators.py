"""What the phases use of an Accelerator, for any device: Accelerate itself knows one per process."""

from types import MethodType, SimpleNamespace

import torch
from accelerate.utils import convert_outputs_to_fp32


def accelerator_on(device, precision="no", ranks=1):
    device = torch.device(device)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def prepare_model(network, evaluation_mode):
        network.forward = MethodType(convert_outputs_to_fp32(autocast()(type(network).forward)), network)
        return network

    return SimpleNamespace(device=device, num_processes=ranks, autocast=autocast, prepare_model=prepare_model)
