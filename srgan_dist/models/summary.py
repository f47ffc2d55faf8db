"""A table of a network's layers: class, output shape, parameters."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Layer:
    """One row: `name` is class and number; parameters are its own, without those of layers inside it."""

    name: str
    output_shape: tuple
    parameters: int


def list_layers(network, input_shape, call=None):
    """Run `network` (or its method `call`) on zeros [1, *input_shape] and list its layers in order of
    completion.
    """
    layers, hooks = [], []

    def record(module, _, output):
        own = count_parameters(module) - sum(map(count_parameters, layers_in(module)))
        layers.append(Layer(f"{type(module).__name__}-{len(layers) + 1}", tuple(output.shape[1:]), own))

    for name, module in network.named_modules():
        if name and not isinstance(module, (nn.Sequential, nn.ModuleList)) and "parametrizations" not in name:
            hooks.append(module.register_forward_hook(record))
    training = network.training
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            (call or network.eval())(torch.zeros(1, *input_shape, device=device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return layers


def layers_in(module):
    """Return the modules directly inside one, without the parametrizations of its own weights."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def count_parameters(network):
    return sum(p.numel() for p in network.parameters())


def format_layers(title, network, input_shape):
    """Return the table as text, with the total at its end."""
    lines = [title, f"  {'layer':<24}{'output shape':<20}{'parameters':>14}"]
    for layer in list_layers(network, input_shape):
        lines.append(f"  {layer.name:<24}{'x'.join(map(str, layer.output_shape)):<20}{layer.parameters:>14,}")
    lines.append(f"  {'total':<44}{count_parameters(network):>14,}")
    return "\n".join(lines)
