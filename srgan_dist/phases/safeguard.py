"""Updates that happen wholly or not at all.

An update of which any rank has a loss or a gradient that is not finite is skipped by every rank: weights, optimisers
and buffers of all networks stay as they were, bit for bit. No message is needed to agree on it. A loss that is not
finite makes its gradients NaN, NaN and infinity survive the sum over ranks, and from equal sums every rank draws the
same conclusion. With `max_spike` so is an update whose loss or norm of a gradient, over all ranks, is far above the
usual (`spikes.py`); the loss travels with the gradients.

The conclusion stays on the device: Adam's fused step takes it as `found_inf` and then writes nothing. What has been
written by the time an update turns out unsound is remembered from before it and put back: batch-norm buffers, and
in phase 2 the discriminator with its optimiser, whose step comes before the generator's gradient (566 MB at full size,
whose copy takes 0.3 ms of an H200's memory bandwidth per update, by arithmetic). Only where there is something to put
back does the host look at the conclusion, and then at the latest moment: when the next update begins or somebody wants
to see the networks.
"""

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from srgan_dist.phases.spikes import Spikes


class Safeguard:
    """Guards the updates of some networks: `begin` each, start each backward from `share_of` its loss, `check` gradients
    before a `step`, `settle` before looking.

    networks: {name: network}, all that the updates change. early: [(network, optimiser)] that step before the last
    check of an update. clip: norm to which the gradient of each network is shortened, None: never. max_spike: multiple of
    its running mean from which on a loss or a norm is a spike, None: never.
    """

    def __init__(self, networks, early, clip, max_spike, device):
        self.networks, self.early, self.clip = networks, early, clip
        self.unsound = torch.zeros((), device=device)  # 1 where the current update is skipped, as Adam wants it
        self.before = None  # copies of what is put back
        self.spikes = {name: Spikes(max_spike).to(device) for name in networks} if max_spike else {}
        self.losses = {}  # this rank's part of the mean loss of each network, where it is asked for

    def begin(self):
        """Settle the update before, and remember what this one may have to put back."""
        self.settle()
        self.unsound, self.losses = torch.zeros_like(self.unsound), {}
        tensors = self._tensors()
        if self.before is None:
            self.before = [torch.empty_like(tensor) for tensor in tensors]
        _copy(tensors, self.before)

    def share_of(self, name, loss, parts):
        """Return the gradient from which the backward of a network's loss (a 0-d tensor) starts.

        It is 1/parts, so that the gradients of all parts add up to that of their mean; or NaN, and so are then the
        gradients, whose sum tells all ranks that this update is skipped.
        """
        if self.spikes:
            self.losses[name] = self.losses.get(name, 0) + loss.detach() / parts
        return torch.full_like(loss, 1 / parts).where(loss.detach().isfinite(), torch.nan)

    def check(self, name, loss):
        """Return the norm of a network's gradient; unless it is finite and no spike, this update is skipped from here on.

        loss: mean over all parts, as summed over ranks from what `losses` has by this name.
        """
        parameters = [parameter for parameter in self.networks[name].parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters])
        wrong = ~norm.isfinite()
        if self.spikes:
            wrong |= self.spikes[name].judge(loss, norm)
        self.unsound = torch.maximum(self.unsound, wrong.float())
        if self.clip is not None:
            clip_grads_with_norm_(parameters, self.clip, norm)
        return norm

    def step(self, optimizer):
        """Let an optimiser (Adam, fused) step, unless the update is already known to be unsound."""
        optimizer.found_inf = self.unsound
        optimizer.step()

    def settle(self):
        """Put back what an unsound update has changed. Waits for the device where there is anything to put back."""
        if self.before and self.unsound.item():
            _copy(self.before, self._tensors())
            self.unsound = torch.zeros_like(self.unsound)

    def stateful(self):
        """Return what a checkpoint must hold of this: name -> module."""
        return {f"{name}_usual": spikes for name, spikes in self.spikes.items()}

    def _tensors(self):
        tensors = [buffer for network in self.networks.values() for buffer in network.buffers()]
        for network, optimizer in self.early:
            tensors += [parameter.detach() for parameter in network.parameters()]
            tensors += [tensor for parameter in network.parameters() for tensor in _moments(optimizer, parameter)]
        return tensors


def _copy(sources, targets):
    """Copy tensors into others, all of one type in one launch."""
    for dtype in {tensor.dtype for tensor in sources}:
        pairs = [pair for pair in zip(sources, targets, strict=True) if pair[0].dtype == dtype]
        torch._foreach_copy_([target for _, target in pairs], [source for source, _ in pairs])


def _moments(optimizer, parameter):
    """Return Adam's state of a parameter, which before the first step is made as Adam would make it."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state["step"], state["exp_avg"], state["exp_avg_sq"]
