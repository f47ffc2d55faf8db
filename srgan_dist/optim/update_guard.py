"""All-or-nothing updates: a step with a non-finite loss or gradient is skipped on every rank.

Weights, optimisers and buffers of all networks then keep their bits. The ranks agree without a message: a
loss that is not finite makes its gradients NaN, NaN and infinity survive the sum over ranks, and from equal
sums every rank draws the same conclusion. With `max_spike` an update is also skipped when its loss or
gradient norm, over all ranks, is a spike (`spike_detector.py`); the loss is summed along with the gradients.

The conclusion is a tensor on the device, `found_inf`, and the host never waits for it. Nothing is written
before it is known, so nothing is restored: the discriminator's next weights, which the generator's
adversarial term needs, are computed beside the current ones (`trained_network.py`), and all optimisers step
at the end of the update, where Adam's fused kernel and Muon take `found_inf` and then write nothing. Only the
batch-norm buffers, some kilobytes, change on the way.
"""

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from srgan_dist.optim.spike_detector import SpikeDetector


class UpdateGuard:
    """Guards the updates of some networks: `begin` each, scale each backward by `backward_scale`, `check` the
    gradients of each network, then `commit` the optimisers together.

    networks: {name: network}, all that the updates change. max_grad_norm: gradient clipping, per network;
    None: off. max_spike: multiple of its running mean above which a loss or a gradient norm is a spike; None:
    off.
    """

    def __init__(self, networks, max_grad_norm, max_spike, device):
        self.networks, self.max_grad_norm = networks, max_grad_norm
        self.buffers = _Buffers([buffer for network in networks.values() for buffer in network.buffers()])
        self.spikes = {name: SpikeDetector(max_spike).to(device) for name in networks} if max_spike else {}
        # 1 where the current update is skipped, else 0, as the optimisers take it
        self.found_inf = torch.zeros((), device=device)
        self.losses = {}  # with max_spike: this rank's part of the mean loss of each network

    def begin(self):
        """Begin an update."""
        self.found_inf, self.losses = torch.zeros_like(self.found_inf), {}
        self.buffers.save()

    def backward_scale(self, name, loss, parts):
        """Return the gradient from which the backward of a term of a network's loss (a 0-d tensor) starts.

        It is 1/parts, so that the gradients of all parts add up to that of their mean; NaN where the loss is
        not finite.
        """
        loss = loss.detach()
        if self.spikes:
            self.losses[name] = self.losses.get(name, 0) + loss / parts
        return (0 * loss).add_(1 / parts)

    def check(self, name, loss):
        """Return the norm of a network's gradient; unless it is finite and no spike, this update is skipped.

        loss: mean over all parts, as summed over ranks from `losses`; None without `max_spike`.
        """
        parameters = list(self.networks[name].parameters())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        skip = ~norm.isfinite()
        if self.spikes:
            skip |= self.spikes[name].update(loss, norm, learn=self.found_inf == 0)
        self.found_inf = torch.maximum(self.found_inf, skip.float())
        if self.max_grad_norm is not None:
            clip_grads_with_norm_(parameters, self.max_grad_norm, norm, foreach=True)
        return norm

    def commit(self, *optimizers):
        """Step all optimisers (fused Adam, Muon), or none of them and restore the buffers."""
        for optimizer in optimizers:
            optimizer.found_inf = self.found_inf
            optimizer.step()
        self.buffers.restore_where(self.found_inf)

    def stateful(self):
        """Return what a checkpoint holds of this: {name: module}."""
        return {f"{name}_usual": spikes for name, spikes in self.spikes.items()}


class _Buffers:
    """The buffers of some networks, saved and restored with one launch per type."""

    def __init__(self, tensors):
        types = {tensor.dtype for tensor in tensors}
        self.groups = [[tensor for tensor in tensors if tensor.dtype == dtype] for dtype in types]

    def save(self):
        self.saved = [_flat(group) for group in self.groups]

    def restore_where(self, flag):
        """Restore the saved values where a 0-d tensor is 1; the current ones may be NaN."""
        for group, saved in zip(self.groups, self.saved, strict=True):
            chosen = torch.where(flag > 0, saved, _flat(group)).split([tensor.numel() for tensor in group])
            parts = [part.view_as(tensor) for part, tensor in zip(chosen, group, strict=True)]
            torch._foreach_copy_(group, parts)


def _flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])
