"""Muon: momentum whose matrix is made orthogonal, for the weights between a network's first and last layer.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon/. The filters of a convolution are the rows of a matrix. PyTorch's
own Muon takes neither convolutions nor the update guard's `found_inf`.
"""

from typing import Literal

import torch
from pydantic import Field

from srgan_dist.utils.settings import Settings

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic, of the source
ITERATIONS = 5


class AdamConfig(Settings):
    """Adam for all weights, as in the paper."""

    name: Literal["adam"]


class MuonConfig(Settings):
    """Muon for the weights between the generator's first and last layer, Adam for all others."""

    name: Literal["muon"]
    learning_rate: float = Field(0.01, gt=0, description="of Muon: spectral norm of the first update")


def split_for_muon(parameters):
    """Return (weights of hidden layers, the other parameters): Muon takes weights of several input and output
    channels.
    """
    parameters = list(parameters)
    hidden = [weight for weight in parameters if weight.ndim > 1 and min(weight.shape[:2]) > 1]
    ids = {id(weight) for weight in hidden}
    return hidden, [parameter for parameter in parameters if id(parameter) not in ids]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of 0.95, orthogonalised by five iterations of Newton and Schulz, times the learning
    rate and sqrt(rows / columns) where a matrix has more rows than columns.

    A step writes nothing where `found_inf`, a 0-d tensor that the update guard sets, is 1.
    """

    found_inf = None

    def __init__(self, parameters, learning_rate):
        parameters = list(parameters)
        rate = torch.full((), learning_rate, dtype=torch.float32, device=parameters[0].device)
        super().__init__(parameters, {"lr": rate})
        shapes = {}
        for parameter in parameters:
            shapes.setdefault(parameter.shape, []).append(parameter)
        self.same_shapes = list(shapes.values())  # orthogonalised together

    @torch.no_grad()
    def step(self):
        for parameters in self.same_shapes:
            momenta = [self._momentum(parameter) for parameter in parameters]
            gradients = torch.stack([parameter.grad for parameter in parameters])
            before = torch.stack(momenta)
            momentum = before.lerp(gradients, 1 - MOMENTUM)
            update = orthogonalised(gradients.lerp_(momentum, MOMENTUM).flatten(2)).view_as(momentum)
            rows, columns = len(parameters[0]), parameters[0][0].numel()
            update *= -self.param_groups[0]["lr"] * max(1, rows / columns) ** 0.5
            if self.found_inf is not None:
                momentum = torch.where(self.found_inf > 0, before, momentum)
                update.masked_fill_(self.found_inf > 0, 0)
            torch._foreach_copy_(momenta, momentum.unbind())
            torch._foreach_add_(parameters, update.unbind())

    def _momentum(self, parameter):
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalised(matrices):
    """Return matrices [N, rows, columns] with their singular values brought to some 0.7 to 1.2; zero stays
    zero.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-12)
    if transposed := x.shape[1] > x.shape[2]:
        x = x.mT
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x
