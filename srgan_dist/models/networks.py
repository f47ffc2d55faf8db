"""The networks of a run: built from the seed, laid out, put on the device, and kept the same on all ranks."""

import torch
import torch.distributed
from torch.nn.utils import get_total_norm

from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.layers import CHANNELS_LAST, recompute_blocks, synchronise
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import memory_named


class Networks:
    """Generator and, once a phase asks for it, discriminator, as Accelerate prepares them: their forward runs
    in mixed precision. Gradients are averaged over ranks by the phases (`optim/all_reduce.py` says why), not
    by DDP.

    generator, discriminator: their settings. hr_crop: side of the HR crops in pixels. seed: of the initial
    weights. recompute: whether the generator's blocks are computed again for the backward pass.
    """

    def __init__(
        self,
        generator,
        discriminator,
        hr_crop,
        seed,
        accelerator,
        channels_last=True,
        compiled=False,
        recompute=False,
    ):
        self.accelerator, self.channels_last, self.compiled = accelerator, channels_last, compiled
        self.ndim, self.scale, self.seed = generator.ndim, generator.scale, seed
        self.discriminator_settings = discriminator, hr_crop, seed + 1
        network = self._build(seed, build_generator, generator)
        if recompute:
            recompute_blocks(network)
        self.generator = self._prepare(network)
        self._discriminator = None
        self.ema = None  # of the generator's weights, while a phase keeps one

    @property
    def discriminator(self):
        if self._discriminator is None:
            settings, hr_crop, seed = self.discriminator_settings
            network = self._build(seed, build_discriminator, settings, hr_crop, self.ndim)
            if settings.sync_batchnorm and self.accelerator.num_processes > 1:
                synchronise(network)
            self._discriminator = self._prepare(network)
        return self._discriminator

    @property
    def initialized(self):
        """The networks that have been built so far: {name: network}."""
        return {"generator": self.generator} | (
            {"discriminator": self._discriminator} if self._discriminator else {}
        )

    @property
    def eval_generator(self):
        """The generator that is validated and exported: the EMA if there is one, else the trained one."""
        return self.ema.synchronised() if self.ema else self.generator

    def adopt_ema(self):
        """Go on with the EMA of the generator, if there is one: the phase that kept it is over."""
        if self.ema:
            self.generator.load_state_dict(self.eval_generator.state_dict())
            self.ema = None

    def _build(self, seed, build, *arguments):
        """Build a network whose initial weights depend on the seed alone, not on earlier draws."""
        layout = CHANNELS_LAST[self.ndim] if self.channels_last else torch.contiguous_format
        with torch.random.fork_rng(devices=[]), memory_named(self._too_large):
            torch.manual_seed(seed)
            return build(*arguments).to(self.accelerator.device, memory_format=layout)

    def _too_large(self, error):
        return UserError(
            f"there is too little memory for the networks on {self.accelerator.device}; use fewer filters and"
            " blocks (generator.num_filters, generator.num_blocks, discriminator.num_filters)"
        )

    def _prepare(self, network):
        if self.compiled:
            network.compile(dynamic=False)  # what it computes; its name and those of its weights stay
        return self.accelerator.prepare_model(network, evaluation_mode=True)  # mixed precision, but no DDP

    def share_weights(self):
        """Give every rank the weights and buffers of rank 0, from which all go on alike."""
        self._share(lambda network: network.state_dict().values())

    def share_buffers(self):
        """Give every rank the batch-norm buffers of rank 0, which are the ones that are saved."""
        self._share(lambda network: network.buffers())

    def _share(self, tensors_of):
        if self.accelerator.num_processes > 1:
            for network in [*self.initialized.values(), *([self.ema.network] if self.ema else [])]:
                for tensor in tensors_of(network):
                    torch.distributed.broadcast(tensor, 0)

    def are_finite(self):
        """Return whether every weight is finite."""
        parameters = [
            parameter.detach() for network in self.initialized.values() for parameter in network.parameters()
        ]
        return bool(get_total_norm(parameters, foreach=True).isfinite())
