"""The number of ranks of a training on CPU that no launcher has started."""

import os

import torch

from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.runtime.cpu import free_memory
from srgan_dist.utils.executors import usable_cores

MIN_CROPS_PER_RANK = 2  # for the statistics of batch normalisation
RANK_BYTES = 1.5 * 2**30  # independent of the weights: PyTorch, VGG, activations of some crops
BYTES_PER_WEIGHT = 24  # weight, gradient, two moments of Adam, next weight, one temporary


def ranks_on_cpu(config, previous_ranks=None):
    """Return the number of ranks: cpu_ranks where it is set, else the number that the run has had so far,
    else one per core, as far as they share the batch equally, have MIN_CROPS_PER_RANK crops each, and fit
    into the free memory.

    previous_ranks: of the run that is resumed, None for a new one. Another number would change the last bits.
    """
    if config.cpu_ranks:
        return config.cpu_ranks
    batch_size, accumulation = config.data.batch_size, config.gradient_accumulation_steps
    if previous_ranks and batch_size % (previous_ranks * accumulation) == 0:
        return previous_ranks
    if os.name != "posix":
        return 1
    limit = min(
        usable_cores(),
        batch_size // accumulation // MIN_CROPS_PER_RANK,
        int(free_memory() / _bytes_per_rank(config)),
    )
    possible = [ranks for ranks in range(2, limit + 1) if batch_size % (ranks * accumulation) == 0]
    return max(possible, default=1)


def _bytes_per_rank(config):
    with torch.device("meta"):
        networks = [build_generator(config.generator)]
        if config.needs_discriminator():
            networks.append(build_discriminator(config.discriminator, config.hr_crop, config.generator.ndim))
    weights = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return RANK_BYTES + BYTES_PER_WEIGHT * weights
