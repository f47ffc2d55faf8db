"""The plan of a training in words."""

import math

import torch

from srgan_dist.config import dump_config
from srgan_dist.evaluation.scoring import constant_note
from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.summary import format_layers
from srgan_dist.run.failures import fitting_crops
from srgan_dist.run.header import crops_line, image_lines, phase_plan
from srgan_dist.run.update_cost import update_cost
from srgan_dist.runtime.cpu import free_memory
from srgan_dist.runtime.device import precision_on
from srgan_dist.runtime.launch_variables import launch_number
from srgan_dist.storage.cache import GIB


def dry_run_report(config, checked, device_type="cpu", world_size=1, memory=math.inf):
    """Return what a training on devices of that type would do, as text: config, networks, data, phases.

    checked: the Preflight of the config. memory: bytes that a rank has, with which updates are compared;
    infinity where they are not known.
    """
    ndim, micro_batches = config.generator.ndim, config.gradient_accumulation_steps
    lr_shape, hr_shape = ((1, *[side] * ndim) for side in (config.data.lr_crop, config.hr_crop))
    with torch.device("meta"):  # shapes without values
        parts = [dump_config(config), format_layers("generator", build_generator(config.generator), lr_shape)]
        if config.needs_discriminator():
            discriminator = build_discriminator(config.discriminator, config.hr_crop, ndim)
            parts.append(format_layers("discriminator", discriminator, hr_shape))
    plan = [f"data {crops_line(config, checked)}"]
    plan += [f"  {name:<6}{line}" for name, lines in image_lines(config, checked).items() for line in lines]
    plan += [f"  {line}" for line in data_plan(config, checked)]
    precision = precision_on(device_type, config.mixed_precision)
    plan.append(f"device {device_type}, mixed precision {precision}")
    per_rank = config.data.batch_size // world_size
    batch = f"batch_size_per_gpu {per_rank}"
    batch += f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
    plan.append(f"phases, {config.data.batch_size} crops an update, {batch}")
    costs = []
    for name, phase in config.phases():
        plan.append(f"  {name:<12}{phase_plan(phase)}")
        if phase.weights is None:
            words, cost = cost_plan(config, phase, precision, per_rank // micro_batches)
            plan.append(f"  {'':<12}{words}")
            costs.append(cost)
    plan.append(
        "  memory is that of weights, gradients and optimiser, and what crops keep for the backward pass;"
        " results that are used at once and the workspace of convolutions come on top"
    )
    if memory < math.inf and costs and None not in costs:
        plan.append(f"  {fit_of_memory(costs, per_rank // micro_batches, memory, world_size)}")
    start = f"continues from {checked.checkpoint}" if checked.checkpoint else "a new run"
    plan += [f"run directory {checked.run_directory} ({start})", *checked.notes]
    return "\n\n".join([*parts, "\n".join(plan)])


def data_plan(config, checked):
    """Return lines that say in what blocks training data is shuffled, whether nothing is validated, what is
    read from copies in the cache, and which images have no score.
    """
    lines = [
        f"shuffled in blocks of {block} of the {len(split.shards)} shards of {split.place}"
        for (split, _), block in zip(checked.train, checked.blocks, strict=True)
        if block
    ]
    if stream := config.data.stream:
        lines.append(
            f"streamed by {stream.workers} workers a rank, shuffled in buffers of {stream.buffer} samples;"
            f" begins new epochs at update {checked.state.global_step:,} and with each phase;"
            f" valid and test are read from their copy in {checked.train[0][0].place}"
        )
    if "valid" not in checked.eval_splits:
        lines.append(
            f"{config.data.path} has no valid split: nothing is validated, so there are no val/ metrics, no"
            " panels and no weights/best"
        )
    splits = [*(split for split, _ in checked.train), *checked.eval_splits.values()]
    if copied := sum(sum(split.cached_bytes) for split in splits):
        lines.append(
            f"{copied / GIB:.3g} GiB are read from copies in {splits[0].set.cache.folder}, which keeps up to"
            f" {config.data.cache_gib:g} GiB"
        )
    return lines + [note for split in checked.eval_splits.values() for note in constant_note(split)]


def cost_plan(config, phase, precision, crops):
    """Return what an update of a phase costs with a number of crops at a time on a rank: (words, UpdateCost);
    None where it is not known.
    """
    try:
        cost = update_cost(config, phase, precision, crops)
    except (
        RuntimeError,
        ValueError,
    ) as error:  # e.g. of a loss of one's own that asks for a value, or leaves the device
        return f"its cost is not known ({str(error).splitlines()[0]:.160})", None
    crop, fixed, all_of_it = cost.crop_bytes / 2**20, cost.fixed_bytes / GIB, cost.bytes_of(crops) / GIB
    words = (
        f"{cost.flop / 1e9:,.1f} GFLOP a crop; memory of a rank {fixed:.2f} GiB + {crops} crops x"
        f" {crop:,.1f} MiB = {all_of_it:.2f} GiB"
    )
    return words, cost


def fit_of_memory(costs, crops, memory, world_size):
    """Return in words whether a number of crops at a time fits the memory of a rank, in bytes."""
    needed = max(cost.bytes_of(crops) for cost in costs)
    compared = f"{needed / GIB:.2f} of {memory / GIB:.2f} GiB"
    if needed <= memory:
        return f"by this estimate an update fits the memory of a rank: {compared}"
    fits = fitting_crops(costs, crops, size=memory)
    advice = "try a smaller data.lr_crop, as not even one crop at a time fits"
    if fits:
        advice = f"try data.batch_size={fits * world_size} with gradient_accumulation_steps=1"
    return f"by this estimate an update does not fit the memory of a rank: {compared}; {advice}"


def memory_of_rank(device_type, ranks):
    """Return the bytes of memory of a rank: of a GPU all, of a CPU the rank's share of what is free now."""
    if device_type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return free_memory() / launch_number("LOCAL_WORLD_SIZE", ranks)
