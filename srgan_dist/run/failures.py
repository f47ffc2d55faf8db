"""Failures of a training in words that name the settings: divergence, too little memory, ranks that start
apart.
"""

import contextlib
import math

from srgan_dist.run.checkpoint import list_checkpoints
from srgan_dist.runtime.device import is_out_of_memory, memory_of
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError


def check_same_start(checked):
    """Raise UserError unless every rank's Preflight found the same checkpoint."""
    starts = gather_lists([(checked.checkpoint and checked.checkpoint.name, checked.state.model_dump())])
    if any(start != starts[0] for start in starts):
        names = ", ".join(f"rank {rank}: {name or 'none'}" for rank, (name, _) in enumerate(starts))
        raise UserError(
            f"output={checked.run_directory.parent}: the ranks find different checkpoints there ({names});"
            " it has to be on a file system that all nodes share"
        )


@contextlib.contextmanager
def out_of_memory_named(config, world_size, device):
    """Raise UserError that names the settings where an update needs more memory than there is."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        data, micro_batches = config.data, config.gradient_accumulation_steps
        share = data.batch_size // world_size
        possible = [n for n in range(micro_batches + 1, share + 1) if share % n == 0]
        advice = f"a smaller data.lr_crop than {data.lr_crop}"
        if possible:
            advice = f"gradient_accumulation_steps={possible[0]}"
        raise UserError(
            f"{memory_of(device)} does not hold an update of data.batch_size={data.batch_size}:"
            f" {share // micro_batches} crops of {config.hr_crop} HR pixels at a time on each of"
            f" {world_size} rank(s) (gradient_accumulation_steps={micro_batches}). Use {advice}, which"
            " trains the same but for batch normalisation and the objective relativistic, a smaller"
            " data.batch_size, or more GPUs"
            f" ({str(error).splitlines()[0]:.200})"
        ) from None


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
