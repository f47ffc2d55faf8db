"""The networks of a run: built from the seed, laid out, put on the device, and shared over ranks by Accelerate."""

import gc
from functools import cached_property

import torch
import torch.distributed

from srgan_dist.models import build_generator
from srgan_dist.models.discriminator import Discriminator


class Networks:
    """Generator and, once a phase asks for it, discriminator.

    `bare_generator` and `bare_discriminator` are the networks themselves; `generator` and `discriminator` wrap them
    so that gradients are averaged over ranks and the forward runs in mixed precision.
    """

    def __init__(self, config, accelerator):
        self.config, self.accelerator = config, accelerator
        self.bare_generator = self._build(build_generator, config.generator, seed=config.seed)
        self.bare_discriminator = None

    @cached_property
    def generator(self):
        return self._wrap(self.bare_generator)

    @cached_property
    def discriminator(self):
        self.bare_discriminator = self._build(
            Discriminator, self.config.discriminator, self.config.hr_crop, seed=self.config.seed + 1
        )
        return self._wrap(self.bare_discriminator)

    def _build(self, build, *arguments, seed):
        """Build a network with initial weights that depend on the seed alone, not on what was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(*arguments)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return network.to(self.accelerator.device, memory_format=layout)

    def _wrap(self, network):
        wrapped = self.accelerator.prepare_model(network)
        if self.accelerator.num_processes > 1:
            # Two forwards before one backward must not overwrite batch-norm buffers in between.
            wrapped.broadcast_buffers = False
        return wrapped

    def share_buffers(self):
        """Give every rank the batch-norm buffers of rank 0, which are the ones that are saved."""
        if self.bare_discriminator is not None and self.accelerator.num_processes > 1:
            for buffer in self.bare_discriminator.buffers():
                torch.distributed.broadcast(buffer, 0)

    def are_finite(self):
        """Tell whether every weight is a number."""
        parameters = [p for network in (self.bare_generator, self.bare_discriminator) if network for p in network.parameters()]
        return bool(torch.stack([p.isfinite().all() for p in parameters]).all())

    def unwrap(self):
        """Let go of the wrappers: gloo aborts at exit while one is alive."""
        for name in ("generator", "discriminator"):
            self.__dict__.pop(name, None)
        self.accelerator.free_memory()
        gc.collect()
