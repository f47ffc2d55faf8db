"""Everything that can be checked before a GPU is taken, and what a training would do, in words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from srgan_dist.checkpoint import list_checkpoints, load_generator, newest_checkpoint, read_state
from srgan_dist.config import ConfigError, differences, dump_config, load_config
from srgan_dist.data.index import open_split
from srgan_dist.data.sources import SPLITS
from srgan_dist.evaluate import check_scorable
from srgan_dist.losses.perceptual import checked_weights_file
from srgan_dist.models import build_generator
from srgan_dist.models.discriminator import Discriminator, final_side
from srgan_dist.models.summary import format_summary


@dataclass(frozen=True)
class Prepared:
    """What the checks found: the splits of the data (None where absent) and where to continue from."""

    splits: dict
    run_directory: Path
    checkpoint: Path | None
    state: dict | None


def prepare(config, resume="auto", world_size=1):
    """Check a config against data, weight files and run directory; raises ValueError that says what to change.

    resume: "auto" continues the run directory if it holds a checkpoint, "never" only starts anew, a path starts from
    that checkpoint.
    """
    if config.data.batch_size % world_size:
        raise ConfigError(f"data.batch_size={config.data.batch_size} cannot be shared by {world_size} ranks equally;"
                          f" use a multiple of {world_size}")
    splits = {name: open_split(config.data.path, name) for name in SPLITS}
    _check_splits(config, splits)
    for name in ("valid", "test"):
        if splits[name] is not None:
            check_scorable(splits[name])
    _check_batch_norm(config, world_size)
    for loss in config.vgg_losses():
        if loss.weights != "random":
            checked_weights_file(loss)
    for name, phase in config.phases():
        if phase.weights is not None:
            _check_weights(config, name, phase.weights)
    run_directory = Path(config.output) / config.name
    return Prepared(splits, run_directory, *_find_start(config, run_directory, resume))


def _check_splits(config, splits):
    train, crop = splits["train"], config.data.lr_crop
    if train is None:
        raise ConfigError(f"data.path={config.data.path} has no train split")
    if train.scale != config.generator.scale:
        raise ConfigError(f"generator.scale={config.generator.scale}, but data.path={config.data.path}"
                          f" has scale={train.scale}")
    if train.smallest_lr < crop:
        raise ConfigError(f"data.lr_crop={crop} is larger than the smallest LR image of data.path={config.data.path},"
                          f" which has {train.smallest_lr} pixels; use that or less")


def _check_batch_norm(config, world_size):
    side = final_side(config.hr_crop, config.discriminator.padding) if config.adversarial else 2
    if side == 1 and config.data.batch_size == world_size:
        raise ConfigError(f"data.batch_size={config.data.batch_size} over {world_size} ranks leaves batch normalisation"
                          f" one value per channel at data.lr_crop={config.data.lr_crop}; enlarge one of them")


def _check_weights(config, name, path):
    generator, _ = load_generator(path)
    if generator.config != config.generator:
        raise ConfigError(f"{name}.weights={path} holds another generator than this config"
                          f" ({'; '.join(differences(generator.config, config.generator))})")


def _find_start(config, run_directory, resume):
    """Return (checkpoint, its state) to continue from, or (None, None)."""
    recorded = run_directory / "config.yaml"
    if recorded.exists():
        changed = differences(load_config(recorded), config)
        if changed:
            raise ConfigError(f"{run_directory} holds a run with another config ({'; '.join(changed)});"
                              " choose another name, or restore these settings to continue it")
    checkpoints = run_directory / "checkpoints"
    if resume == "auto":
        return newest_checkpoint(checkpoints) or (None, None)
    if list_checkpoints(checkpoints):
        raise ConfigError(f"--resume {resume}: {run_directory} has checkpoints of its own; choose another name,"
                          " or continue it with --resume auto")
    if resume == "never":
        return None, None
    return Path(resume), read_state(resume) | {"wandb_id": None}  # a run of its own from there on


def dry_run_report(config, prepared, world_size=1):
    """Return what a training would do, as text: config, networks, data, phases."""
    lr, hr = (1, config.data.lr_crop, config.data.lr_crop), (1, config.hr_crop, config.hr_crop)
    parts = [dump_config(config), format_summary("generator", build_generator(config.generator), lr)]
    if config.adversarial:
        parts.append(format_summary("discriminator", Discriminator(config.discriminator, config.hr_crop), hr))
    parts.append("\n".join([
        f"data {config.data.path}",
        *(f"  {name:<6}{_counts(split)}" for name, split in prepared.splits.items()),
        f"phases, {config.data.batch_size} crops an update, batch_size_per_gpu {config.data.batch_size // world_size}",
        *(f"  {name:<12}{_plan(name, phase)}" for name, phase in config.phases()),
        f"run directory {prepared.run_directory}"
        f" ({f'continues {prepared.checkpoint}' if prepared.checkpoint else 'starts anew'})",
    ]))
    return "\n\n".join(parts)


def _counts(split):
    if split is None:
        return "absent"
    counts = Counter(split.rocks[number] for number in split.rows["rock"])
    return ", ".join(f"{count} {rock}" for rock, count in sorted(counts.items()))


def _plan(name, phase):
    if phase.weights:
        return f"skipped, weights from {phase.weights}"
    length = f"{phase.steps:,} updates" + (f" or {phase.max_seconds:g} s" if phase.max_seconds else "")
    terms = [f"{loss.weight:g} {key}" for key, loss in phase.losses.items()]
    if name == "adversarial":
        terms.append(f"{phase.adversarial_weight:g} adversarial")
    return f"{length}, {' + '.join(terms)}"
