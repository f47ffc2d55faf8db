"""Failures of a training in words that name the settings: divergence, too little memory, ranks that start
apart.
"""

import math
from functools import partial

import torch

from srgan_dist.run.checkpoint import list_checkpoints
from srgan_dist.run.update_cost import update_cost
from srgan_dist.runtime.cpu import free_memory
from srgan_dist.runtime.device import memory_of, precision_on
from srgan_dist.runtime.launch_variables import launch_number
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import memory_named


def check_same_start(checked):
    """Raise UserError unless every rank's Preflight found the same checkpoint."""
    starts = gather_lists([(checked.checkpoint and checked.checkpoint.name, checked.state.model_dump())])
    if any(start != starts[0] for start in starts):
        names = ", ".join(f"rank {rank}: {name or 'none'}" for rank, (name, _) in enumerate(starts))
        raise UserError(
            f"output={checked.run_directory.parent}: the ranks find different checkpoints there ({names});"
            " it has to be on a file system that all nodes share"
        )


def out_of_memory_named(config, world_size, device):
    """Raise UserError that names the settings where an update needs more memory than there is."""
    return memory_named(partial(_too_large, config, world_size, device))


def _too_large(config, world_size, device, error):
    data, micro_batches = config.data, config.gradient_accumulation_steps
    share = data.batch_size // world_size
    possible = [n for n in range(micro_batches + 1, share + 1) if share % n == 0]
    advice = f"a smaller data.lr_crop than {data.lr_crop}"
    if possible:
        advice = f"gradient_accumulation_steps={possible[0]}"
    return UserError(
        f"{memory_of(device)} does not hold an update of data.batch_size={data.batch_size}:"
        f" {share // micro_batches} crops of {config.hr_crop} HR pixels at a time on each of"
        f" {world_size} rank(s) (gradient_accumulation_steps={micro_batches}). Use {advice}, which"
        " trains the same but for batch normalisation and the objective relativistic, a smaller"
        f" data.batch_size, or more GPUs. {_estimate(config, world_size, device, share // micro_batches)}"
        f" ({(str(error) or type(error).__name__).splitlines()[0]:.200})"
    )


def _estimate(config, world_size, device, crops):
    """Say how many crops at a time fit by the estimate of --dry-run: fewer than the `crops` that do not."""
    if device.type == "cuda":
        size, unused = torch.cuda.get_device_properties(device).total_memory, 0
    else:  # what has been allocated already is not free any more
        size, unused = None, free_memory() / launch_number("LOCAL_WORLD_SIZE", 1)
    try:
        costs = phase_costs(config, precision_on(device.type, config.mixed_precision))
    except (RuntimeError, ValueError):  # e.g. of a loss of one's own that asks for a value
        return "Its memory cannot be estimated"
    fits = fitting_crops(costs, crops, size=size, unused=unused)
    if fits is None:
        return "By the estimate of --dry-run not even one crop at a time fits"
    batch = f"data.batch_size={fits * world_size} with gradient_accumulation_steps=1"
    return f"By the estimate of --dry-run the largest power of two below is {fits} crops at a time: {batch}"


def phase_costs(config, precision):
    """Return the UpdateCost of every phase that is trained."""
    phases = [phase for _, phase in config.phases() if phase.weights is None]
    return [update_cost(config, phase, precision, 2) for phase in phases]


def fitting_crops(costs, below, size=None, unused=0):
    """Return the largest power of two below a number of crops of which an update of all `costs` fits, None
    where one crop does not.

    size: bytes of the memory, which holds weights too; None: `unused` are what crops alone may take.
    """
    crops = 1 << max(below - 1, 1).bit_length() - 1
    while crops and not all(
        cost.bytes_of(crops) <= size if size is not None else crops * cost.crop_bytes <= unused
        for cost in costs
    ):
        crops //= 2
    return crops if 1 <= crops < below else None


class DivergenceCheck:
    """Raises UserError when a phase has diverged, with the ways out.

    run: the TrainingRun, for its state, networks and checkpoints.
    """

    def __init__(self, run):
        self.run = run

    def check_skips(self, consecutive, limit, max_spike):
        """Raise when `limit` updates or more in a row were skipped."""
        if consecutive >= limit:
            spike = f" or a spike (max_spike={max_spike:g})" if max_spike else ""
            self._fail(
                f"a loss or a gradient in {consecutive} updates in a row"
                f" (max_consecutive_skips={self.run.config.max_consecutive_skips}) is not finite{spike}"
            )

    def check_finite(self, metrics):
        """Raise when a metric or a weight is not finite."""
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        if not wrong and not self.run.networks.are_finite():
            wrong = ["a weight"]
        if wrong:
            self._fail(f"{', '.join(wrong)} is not finite")

    def _fail(self, problem):
        run, phase = self.run, self.run.state.phase
        newest = next(iter(list_checkpoints(run.directory.checkpoints)), run.checkpoint)
        start = "Start again"
        if newest:
            start = (
                f"Start a run of another name from an earlier checkpoint (--resume {newest}) or from nothing"
            )
        raise UserError(
            f"{phase} has diverged: {problem} at update {run.state.global_step}. {start}, with a smaller"
            f" {phase}.learning_rate, {phase}.max_grad_norm, smaller weights of its losses, or"
            f" mixed_precision=no"
        )
