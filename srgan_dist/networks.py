"""The networks of a run: built from the seed, laid out, put on the device, and kept the same on all ranks."""

import gc
from functools import cached_property

import torch
import torch.distributed

from srgan_dist.models import build_generator
from srgan_dist.models.batch_norm import synchronised
from srgan_dist.models.discriminator import Discriminator


class Networks:
    """Generator and, once a phase asks for it, discriminator.

    `generator` and `discriminator` are as Accelerate prepares them: their forward runs in mixed precision. They are the
    same modules as `bare_generator` and `bare_discriminator`; gradients are averaged over ranks by the phases, which
    say why (`phases/gradients.py`).
    """

    def __init__(self, config, accelerator):
        self.config, self.accelerator = config, accelerator
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format  # of networks and losses
        self.bare_generator = self._build(build_generator, config.generator, seed=config.seed)
        self.bare_discriminator = None
        self.average = None  # of the generator's weights, while a phase keeps one
        self.compiled = config.compile

    @cached_property
    def generator(self):
        return self._prepare(self.bare_generator)

    @cached_property
    def discriminator(self):
        self.bare_discriminator = self._build(
            Discriminator, self.config.discriminator, self.config.hr_crop, seed=self.config.seed + 1
        )
        if self.config.discriminator.sync_batchnorm and self.accelerator.num_processes > 1:
            self.bare_discriminator = synchronised(self.bare_discriminator, self.accelerator.device)
        return self._prepare(self.bare_discriminator)

    @property
    def shown(self):
        """The generator that is validated and kept: the average of one is kept, else the trained one."""
        return self.average.settled() if self.average else self.bare_generator

    def adopt_average(self):
        """Go on with the average of the generator, if there is one: the phase that kept it is over."""
        if self.average:
            self.bare_generator.load_state_dict(self.shown.state_dict())
            self.average = None

    def _build(self, build, *arguments, seed):
        """Build a network with initial weights that depend on the seed alone, not on what was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(*arguments)
        return network.to(self.accelerator.device, memory_format=self.layout)

    def _prepare(self, network):
        if self.compiled:
            network.compile()  # what it computes; its name and those of its weights stay
        return self.accelerator.prepare_model(network, evaluation_mode=True)  # mixed precision, but no DDP around it

    def share_weights(self):
        """Give every rank the weights and buffers of rank 0, from which all go on alike."""
        self._share(lambda network: network.state_dict().values())

    def share_buffers(self):
        """Give every rank the batch-norm buffers of rank 0, which are the ones that are saved."""
        self._share(lambda network: network.buffers())

    def _share(self, tensors_of):
        if self.accelerator.num_processes > 1:
            for network in filter(None, (self.bare_generator, self.bare_discriminator)):
                for tensor in tensors_of(network):
                    torch.distributed.broadcast(tensor, 0)

    def are_finite(self):
        """Tell whether every weight is a number."""
        parameters = [p for network in (self.bare_generator, self.bare_discriminator) if network for p in network.parameters()]
        return bool(torch.stack([p.isfinite().all() for p in parameters]).all())

    def unwrap(self):
        """Let go of what Accelerate holds."""
        for name in ("generator", "discriminator"):
            self.__dict__.pop(name, None)
        self.accelerator.free_memory()
        gc.collect()
