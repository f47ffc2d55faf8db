"""The head of a training's output: what is trained on what, in a few aligned lines."""

import platform
import re
import shutil
import textwrap
from collections import Counter

import torch

from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.summary import count_parameters
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.tracking.tracker import wandb_mode

LABEL = 11  # characters
NARROWEST, WIDEST = 80, 110  # of a line; of a file 100
PRECISION = {"no": "float32", "bf16": "bf16: convolutions in bfloat16, weights and losses in float32"}
NAMED_MACHINES = 4
NO_BREAK = "\N{NO-BREAK SPACE}"
NUMBER = re.compile(r"(?<!\S)([\d,.]+) ")  # which stays on the line of its word


def header(config, checked, precision, device, ranks):
    """Return the head as text, of a training with a Preflight `checked`.

    precision: "no" or "bf16". device, ranks: as `describe_ranks` has them.
    """
    rows = {
        "run": [str(checked.run_directory)],
        "device": [device],
        "ranks": [ranks],
        "precision": [PRECISION[precision]],
        "data": [crops_line(config, checked)],
        **{f"  {split}": lines for split, lines in image_lines(config, checked).items()},
        "networks": [f"{name} {count:,} parameters" for name, count in parameter_counts(config).items()],
        "phases": [f"{name:<12}{phase_plan(phase)}" for name, phase in config.phases()],
        "wandb": [trackers_line(config.tracking)],
    }
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)) - LABEL
    wrapped = textwrap.TextWrapper(
        width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    lines = []
    for label, texts in rows.items():
        together = [NUMBER.sub(rf"\1{NO_BREAK}", text) for text in texts]
        for line in [line for text in together for line in wrapped.wrap(text)]:
            lines.append(f"{label:<{LABEL}}{line}".replace(NO_BREAK, " "))
            label = ""
    return "\n".join(lines)


def describe_ranks(device, threads=None):
    """Return the devices of all ranks, and how many ranks there are on which machines, as two texts; every
    rank calls it. device: of this rank. threads: as text, of a rank on CPU.
    """
    name = device.type
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name = f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB)"
    places = gather_lists([(platform.node(), name)])
    machines = sorted({machine for machine, _ in places})
    devices = Counter(name for _, name in places)
    text = (
        f"{name}, {threads}" if threads else ", ".join(f"{count} x {name}" for name, count in devices.items())
    )
    where = ", ".join(machines[:NAMED_MACHINES]) + ", ..." * (len(machines) > NAMED_MACHINES)
    count = f"{len(machines)} machines: " if len(machines) > 1 else ""
    return text, f"{len(places)} on {count}{where}"


def crops_line(config, checked):
    """Say what crops of what images an update takes."""
    split, sides = checked.train[0][0], (config.data.lr_crop, config.hr_crop)
    lr, hr = ("x".join([str(side)] * config.generator.ndim) for side in sides)
    place = "" if config.data.train else f"{split.place}: "
    return (
        f"{place}x{split.scale}, {split.dtype}; {config.data.batch_size} crops an update, of {lr} LR pixels,"
        f" {hr} HR"
    )


def image_lines(config, checked):
    """Return {split: lines} with the images of each rock; where there are several sets, of which one."""
    several = config.data.train is not None
    looked_at = "streamed; of its first samples " if config.data.stream else ""
    lines = {
        "train": [
            looked_at + counts(split) + (f" of {split.place}, weight {weight:g}" if several else "")
            for split, weight in checked.train
        ]
    }
    for name in ("valid", "test"):
        lines[name] = [counts(checked.eval_splits.get(name)) + (f" of {config.data.path}" if several else "")]
    return lines


def counts(split):
    """Return the images of each rock of a split, or None, as text."""
    if split is None:
        return "absent"
    found = Counter(split.rocks[number] for number in split.rows["rock"])
    return ", ".join(f"{count} {rock}" for rock, count in sorted(found.items()))


def phase_plan(phase):
    """Return in words what a phase would do."""
    if phase.weights:
        return f"skipped, weights from {phase.weights}"
    length = f"{phase.steps:,} updates" + (f" or {phase.max_seconds:g} s" if phase.max_seconds else "")
    plan = f"{length}, {' + '.join(f'{weight:g} {name}' for name, weight in phase.loss_weights().items())}"
    files = [f"the {network} of {getattr(phase, name)}" for name, network in phase.initial_weights().items()]
    return plan + (f"; begins with {' and '.join(files)}" if files else "")


def parameter_counts(config):
    """Return {network with the name of its kind: number of its parameters}."""
    with torch.device("meta"):  # shapes without values
        networks = {f"generator {config.generator.name}": build_generator(config.generator)}
        if config.needs_discriminator():
            judge = build_discriminator(config.discriminator, config.hr_crop, config.generator.ndim)
            networks[f"discriminator {config.discriminator.name}"] = judge
    return {name: count_parameters(network) for name, network in networks.items()}


def trackers_line(tracking):
    """Say where the records go beside metrics.jsonl."""
    line = {
        "online": "online; its link follows when the server has answered",
        "offline": "offline, in the run directory; the end names the command that sends it",
        "disabled": "off",
    }[wandb_mode(tracking)]
    return line + (f"; also {', '.join(tracking.also)}" if tracking.also else "")
