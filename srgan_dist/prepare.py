"""Everything that can be checked before a GPU is taken, and what a training would do, in words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from srgan_dist.checkpoint import list_checkpoints, load_generator, newest_checkpoint, read_state
from srgan_dist.config import ConfigError, differences, dump_config, load_config
from srgan_dist.data.index import SPLITS, open_split
from srgan_dist.errors import UserError
from srgan_dist.losses.perceptual import checked_weights_file
from srgan_dist.machine import precision_on
from srgan_dist.models import build_generator
from srgan_dist.models.discriminator import Discriminator, final_side
from srgan_dist.models.table import format_layers
from srgan_dist.scoring import check_scorable
from srgan_dist.state import State, identity_of, parse_state

# Settings that may change while a run is continued: none of them decides what is learnt.
FREE = ("name:", "output", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints", "panels", "cpu_threads", "tracking.",
        "data.path")  # moved; its content is compared on its own


@dataclass(frozen=True)
class Prepared:
    """What the checks found: the splits of the data (None where absent), and where to start or continue."""

    splits: dict
    run_directory: Path
    checkpoint: Path | None
    state: State


def prepare(config, resume="auto", world_size=1):
    """Check a config against data, weight files and run directory; raises UserError that says what to change.

    resume: "auto" continues the run directory if it holds a checkpoint, "never" only starts anew, a path starts from
    that checkpoint unless the run directory has one of its own by now.
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
    for field, loss in config.vgg_losses().items():
        if loss.weights != "random":
            _naming(field, checked_weights_file, loss)
    for name, phase in config.phases():
        if phase.weights is not None:
            _check_weights(config, name, phase.weights)
    run_directory = Path(config.output) / config.name
    identity = identity_of(config, splits["train"])
    return Prepared(splits, run_directory, *_find_start(config, identity, run_directory, resume))


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
    if not config.needs_discriminator():
        return
    side = final_side(config.hr_crop, config.discriminator.padding)
    if side == 1 and config.data.batch_size == world_size:
        raise ConfigError(f"data.batch_size={config.data.batch_size} over {world_size} ranks leaves batch normalisation"
                          f" one value per channel at data.lr_crop={config.data.lr_crop}; enlarge one of them")


def _check_weights(config, name, path):
    generator, _ = _naming(f"{name}.weights", load_generator, path)
    if generator.config != config.generator:
        raise ConfigError(f"{name}.weights={path} holds another generator than this config"
                          f" ({'; '.join(differences(generator.config, config.generator))})")


def _naming(field, check, value):
    """Run a check of the value of one setting; its error begins with the setting."""
    try:
        return check(value)
    except UserError as error:
        raise ConfigError(f"{field}: {error}") from None


def _find_start(config, identity, run_directory, resume):
    """Return (checkpoint or None, state) to start from."""
    own = run_directory / "checkpoints"
    if list_checkpoints(own):
        if resume == "never":
            raise ConfigError(f"--resume never: {run_directory} has checkpoints of its own; choose another name,"
                              " or continue it with --resume auto")
        _check_recorded(config, run_directory)
        path, content = newest_checkpoint(own)
        return path, parse_state(content, path, config, identity)
    if any((run_directory / "weights").glob("*.safetensors")):  # ended between a phase's weights and its checkpoint?
        _check_recorded(config, run_directory)
    if resume in ("auto", "never"):
        return None, State(identity=identity)
    path = Path(resume)
    if not (path / "manifest.json").is_file():
        raise ConfigError(f"--resume {resume} is none of auto, never and a checkpoint, e.g. runs/NAME/checkpoints/step-00001000")
    state = parse_state(read_state(path), path, config, identity)
    return path, state.model_copy(update={"wandb_id": None})  # a run of its own from there on


def _check_recorded(config, run_directory):
    """Raise ConfigError if a run directory holds a run whose results another config decided."""
    recorded = run_directory / "config.yaml"
    try:
        before = load_config(recorded)
    except ConfigError as error:
        raise ConfigError(f"{run_directory} holds a run whose record cannot be read ({error}); choose another name") from None
    if changed := [line for line in differences(before, config) if not line.startswith(FREE)]:
        raise ConfigError(f"{run_directory} holds a run with another config ({'; '.join(changed)}). Choose another name"
                          " (with --resume PATH it can begin at a checkpoint of this one), or restore these settings to"
                          " continue it")


def dry_run_report(config, prepared, device_type="cpu", world_size=1):
    """Return what a training on devices of that type would do, as text: config, networks, data, phases."""
    lr, hr = (1, config.data.lr_crop, config.data.lr_crop), (1, config.hr_crop, config.hr_crop)
    parts = [dump_config(config), format_layers("generator", build_generator(config.generator), lr)]
    if config.needs_discriminator():
        parts.append(format_layers("discriminator", Discriminator(config.discriminator, config.hr_crop), hr))
    parts.append("\n".join([
        f"data {config.data.path}",
        *(f"  {name:<6}{_counts(split)}" for name, split in prepared.splits.items()),
        f"device {device_type}, mixed precision {precision_on(device_type, config.mixed_precision)}",
        f"phases, {config.data.batch_size} crops an update, batch_size_per_gpu {config.data.batch_size // world_size}",
        *(f"  {name:<12}{phase_plan(phase)}" for name, phase in config.phases()),
        f"run directory {prepared.run_directory}"
        f" ({f'continues from {prepared.checkpoint}' if prepared.checkpoint else 'starts anew'})",
    ]))
    return "\n\n".join(parts)


def _counts(split):
    if split is None:
        return "absent"
    counts = Counter(split.rocks[number] for number in split.rows["rock"])
    return ", ".join(f"{count} {rock}" for rock, count in sorted(counts.items()))


def phase_plan(phase):
    """Say in words what a phase would do."""
    if phase.weights:
        return f"skipped, weights from {phase.weights}"
    length = f"{phase.steps:,} updates" + (f" or {phase.max_seconds:g} s" if phase.max_seconds else "")
    return f"{length}, {' + '.join(f'{weight:g} {name}' for name, weight in phase.terms().items())}"
