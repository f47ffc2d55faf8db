"""Everything that can be checked before a GPU is taken, and what a training would do, in words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srgan_dist.config import ConfigError, differences, dump_config, load_config
from srgan_dist.data.split import open_set
from srgan_dist.data.reader import Reader
from srgan_dist.evaluation.scoring import check_scorable
from srgan_dist.losses.perceptual import checked_weights_file
from srgan_dist.models import build_generator
from srgan_dist.models.discriminator import Discriminator, final_side
from srgan_dist.models.summary import format_layers
from srgan_dist.run.checkpoint import list_checkpoints, load_generator, newest_checkpoint, read_state
from srgan_dist.run.run_state import State, fingerprint_of, parse_state
from srgan_dist.runtime.device import precision_on
from srgan_dist.storage.cache import GIB, cache_at
from srgan_dist.utils.errors import UserError

UPDATES_APART = 6  # no rank is so far ahead of another, with what each reads ahead

# Settings that may change while a run is continued: none of them decides what is learnt.
CHANGEABLE_ON_RESUME = (
    "name:",
    "output",
    "log_every",
    "validate_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "num_sample_images",
    "cpu_ranks",
    "cpu_threads",
    "device",
    "group_timeout_minutes",
    "max_consecutive_skips",
    "tracking.",
    "data.cache",
    "data.block_shards",
    "data.path",
    "data.train",
)  # moved; what they hold, and in what blocks it is shuffled, is compared on its own


@dataclass(frozen=True)
class Preflight:
    """What the checks found: the data, and where to start or continue."""

    train: list  # (split, weight) of every set
    eval_splits: dict  # the valid and the test split, as far as there are any
    blocks: list  # for every training set how many shards are shuffled together, None: all
    run_directory: Path
    checkpoint: Path | None
    state: State


def prepare(config, resume="auto", world_size=1):
    """Check a config against data, weight files and run directory; raises UserError that says what to change.

    resume: "auto" continues the run directory if it holds a checkpoint, "never" only starts anew, a path starts from
    that checkpoint unless the run directory has one of its own by now.
    """
    if config.data.batch_size % world_size:
        raise ConfigError(
            f"data.batch_size={config.data.batch_size} cannot be shared by {world_size} ranks equally;"
            f" use a multiple of {world_size}"
        )
    if config.data.batch_size % (world_size * config.gradient_accumulation_steps):
        raise ConfigError(
            f"data.batch_size={config.data.batch_size} cannot be cut into gradient_accumulation_steps={config.gradient_accumulation_steps}"
            f" micro-batches on each of {world_size} ranks; use a multiple of {world_size * config.gradient_accumulation_steps}"
        )
    sets = _open_sets(config)
    train = _train_splits(config, sets)
    eval_splits = {
        name: split
        for name in ("valid", "test")
        if (split := sets[config.data.path].split(name, config.data.verify != "none")) is not None
    }
    for split in eval_splits.values():
        _check_fit(f"data.path={config.data.path}", split, config)
        check_scorable(split)
    _check_leaks(train, eval_splits.values())
    _check_batch_norm(config, world_size)
    for field, loss in config.vgg_losses().items():
        if loss.weights != "random":
            _naming(field, checked_weights_file, loss)
    for name, phase in config.phases():
        if phase.weights is not None:
            _check_weights(config, name, phase.weights)
    run_directory = Path(config.output) / config.name
    blocks = _block_shards(config, [split for split, _ in train], eval_splits.values(), world_size)
    identity = fingerprint_of(config, train, blocks)
    return Preflight(
        train, eval_splits, blocks, run_directory, *_find_start(config, identity, run_directory, resume)
    )


def _open_sets(config):
    """Return {path: PackedSet} of all sets of a config."""
    cache = cache_at(config.data.cache, config.data.cache_gib)
    return {
        path: open_set(path, cache)
        for path in {config.data.path, *(chosen.path for chosen in config.data.train_sets())}
    }


def _train_splits(config, sets):
    """Return [(train split, weight)] of the sets that are trained on, after checking that they fit config and each other."""
    opened = []
    for number, chosen in enumerate(config.data.train_sets()):
        field = f"data.train.{number}.path" if config.data.train else "data.path"
        split = sets[chosen.path].split(
            "train", config.data.verify != "none", config.data.max_bad_samples > 0
        )
        if split is None:
            raise ConfigError(f"{field}={chosen.path} has no train split")
        _check_fit(f"{field}={chosen.path}", split, config)
        first = opened[0][0] if opened else split
        if split.dtype != first.dtype:
            raise ConfigError(
                f"{field}={chosen.path} has {split.dtype} images, {first.place} has {first.dtype};"
                " build one of them with --dtype uint16"
            )
        opened.append((split, chosen.weight))
    return opened


def _check_fit(name, split, config):
    if split.scale != config.generator.scale:
        raise ConfigError(f"generator.scale={config.generator.scale}, but {name} has scale={split.scale}")
    if split.name == "train" and split.smallest_lr < config.data.lr_crop:
        raise ConfigError(
            f"data.lr_crop={config.data.lr_crop} is larger than the smallest LR image of {name},"
            f" which has {split.smallest_lr} pixels; use that or less"
        )


def _check_leaks(train, eval_splits):
    """Raise ConfigError if an HR image that is trained on is also validated or tested on."""
    sets = {split.set.sha256 for split in eval_splits}
    apart = [(other, _pictures(other)) for other, _ in train if other.set.sha256 not in sets]
    for split in eval_splits if apart else ():  # within a set the build has looked
        theirs = _pictures(split)
        for other, ours in apart:
            shared = [(theirs[picture], ours[picture]) for picture in theirs.keys() & ours.keys()]
            shared = [
                (i, j)
                for i, j in shared
                if np.array_equal(Reader(split).image(i)[1], Reader(other).image(j)[1])
            ]
            if shared:
                raise ConfigError(
                    f"{split.place} holds {split.key(shared[0][0])} in {split.name}, and"
                    f" {other.place} has the same picture in train ({len(shared)} such);"
                    " scores would be too good"
                )


def _block_shards(config, train, eval_splits, world_size):
    """Return for every training set how many shards are shuffled together, None: all.

    Where all that is used does not fit into the cache, what is held out keeps its place there, and each training set that is
    read from it has its share of the rest for two blocks: the one that is read and the one that comes.
    """
    asked, limit = config.data.block_shards, int(config.data.cache_gib * GIB)
    kept = sum(sum(split.cached_bytes) for split in eval_splits) + max(
        split.transient_cache_bytes for split in [*train, *eval_splits]
    )
    bytes_of = [sum(split.cached_bytes) for split in train]
    if asked is None and kept + sum(bytes_of) <= limit:
        return [None] * len(train)
    blocks = []
    for split, taken in zip(train, bytes_of, strict=True):
        two = 2 * max(
            split.cached_bytes
        )  # bytes of two blocks of one shard; 0 for a set that is read in its place
        most = (limit - kept) * taken // sum(bytes_of) // two if two else len(split.shards)
        block = asked or most
        if two and kept + sum(bytes_of) > limit and not 1 <= block <= most:
            needed = kept + (asked or 1) * two * sum(bytes_of) / taken
            raise ConfigError(
                f"data.cache_gib={config.data.cache_gib:g} has no room for two blocks of"
                f" {block or 1} shards of {split.place} beside the validation and test images; at least"
                f" {needed / GIB:.3g} are needed" + (", or a smaller data.block_shards" * (asked is not None))
            )
        blocks.append(block if block < len(split.shards) else None)
        if two and blocks[-1] and world_size > 1:
            _check_ranks_keep_together(config, split, block)
    return blocks


def _check_ranks_keep_together(config, split, block):
    """Raise ConfigError if a block is read so soon that ranks which share a cache would need three at a time."""
    fewest = int(np.sort(np.bincount(split.rows["shard"]))[:block].sum())
    if fewest < UPDATES_APART * config.data.batch_size:
        raise ConfigError(
            f"blocks of {block} shards of {split.place} have {fewest} samples; several ranks that read ahead need"
            f" {UPDATES_APART} updates in each ({UPDATES_APART * config.data.batch_size} samples). Enlarge"
            " data.cache_gib and data.block_shards"
        )


def _pictures(split):
    """Return {what tells HR images apart but for rare chance: row}; blank images are alike everywhere and left out."""
    rows = split.rows
    marks = zip(
        map(tuple, rows["lr_shape"].tolist()),
        *(rows[name].tolist() for name in ("hr_crc32", "darkest", "brightest")),
    )
    return {mark: i for i, mark in enumerate(marks) if mark[2] < mark[3]}


def _check_batch_norm(config, world_size):
    if not config.needs_discriminator():
        return
    side = final_side(config.hr_crop, config.discriminator.padding)
    apart = config.gradient_accumulation_steps * (1 if config.discriminator.sync_batchnorm else world_size)
    if side == 1 and config.data.batch_size == apart:
        raise ConfigError(
            f"data.batch_size={config.data.batch_size} over {world_size} ranks leaves batch normalisation"
            f" one value per channel at data.lr_crop={config.data.lr_crop}, gradient_accumulation_steps={config.gradient_accumulation_steps};"
            " enlarge one of the first two"
        )


def _check_weights(config, name, path):
    generator, _ = _naming(f"{name}.weights", load_generator, path)
    if generator.config != config.generator:
        raise ConfigError(
            f"{name}.weights={path} holds another generator than this config"
            f" ({'; '.join(differences(generator.config, config.generator))})"
        )


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
            raise ConfigError(
                f"--resume never: {run_directory} has checkpoints of its own; choose another name,"
                " or continue it with --resume auto"
            )
        _check_recorded(config, run_directory)
        path, content = newest_checkpoint(own)
        return path, parse_state(content, path, config, identity)
    if any(
        (run_directory / "weights").glob("*.safetensors")
    ):  # ended between a phase's weights and its checkpoint?
        _check_recorded(config, run_directory)
    if resume in ("auto", "never"):
        return None, State(identity=identity)
    path = Path(resume).resolve()
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"--resume {resume} is none of auto, never and a checkpoint, e.g. runs/NAME/checkpoints/step-00001000"
        )
    state = parse_state(read_state(path), path, config, identity)
    best = {phase: best for phase, best in state.best.items() if phase in state.ends}
    return path, state.model_copy(update={"wandb_id": None, "best": best})  # a run of its own from there on


def _check_recorded(config, run_directory):
    """Raise ConfigError if a run directory holds a run whose results another config decided."""
    recorded = run_directory / "config.yaml"
    try:
        before = load_config(recorded)
    except ConfigError as error:
        raise ConfigError(
            f"{run_directory} holds a run whose record cannot be read ({error}); choose another name"
        ) from None
    if changed := [line for line in differences(before, config) if not line.startswith(CHANGEABLE_ON_RESUME)]:
        raise ConfigError(
            f"{run_directory} holds a run with another config ({'; '.join(changed)}). Choose another name"
            " (with --resume PATH it can begin at a checkpoint of this one), or restore these settings to"
            " continue it"
        )


def dry_run_report(config, prepared, device_type="cpu", world_size=1):
    """Return what a training on devices of that type would do, as text: config, networks, data, phases."""
    lr, hr = (1, config.data.lr_crop, config.data.lr_crop), (1, config.hr_crop, config.hr_crop)
    parts = [dump_config(config), format_layers("generator", build_generator(config.generator), lr)]
    if config.needs_discriminator():
        parts.append(format_layers("discriminator", Discriminator(config.discriminator, config.hr_crop), hr))
    parts.append(
        "\n".join(
            [
                "data",
                *(
                    f"  train {_counts(split)} of {split.place}"
                    + f", weight {weight:g}" * (len(prepared.train) > 1)
                    for split, weight in prepared.train
                ),
                *(
                    f"  {name:<6}{_counts(prepared.eval_splits.get(name))} of {config.data.path}"
                    for name in ("valid", "test")
                ),
                *(f"  {line}" for line in copies_plan(config, prepared)),
                f"device {device_type}, mixed precision {precision_on(device_type, config.mixed_precision)}",
                f"phases, {config.data.batch_size} crops an update, batch_size_per_gpu {config.data.batch_size // world_size}"
                + f" in {config.gradient_accumulation_steps} micro-batches"
                * (config.gradient_accumulation_steps > 1),
                *(f"  {name:<12}{phase_plan(phase)}" for name, phase in config.phases()),
                f"run directory {prepared.run_directory}"
                f" ({f'continues from {prepared.checkpoint}' if prepared.checkpoint else 'starts anew'})",
            ]
        )
    )
    return "\n\n".join(parts)


def copies_plan(config, prepared):
    """Say in words in what blocks training data is shuffled, and what is read from copies in the cache."""
    lines = [
        f"shuffled in blocks of {block} of the {len(split.shards)} shards of {split.place}"
        for (split, _), block in zip(prepared.train, prepared.blocks)
        if block
    ]
    splits = [*(split for split, _ in prepared.train), *prepared.eval_splits.values()]
    if copied := sum(sum(split.cached_bytes) for split in splits):
        lines.append(
            f"{copied / GIB:.3g} GiB are read from copies in {splits[0].set.cache.folder}, which keeps up to {config.data.cache_gib:g} GiB"
        )
    return lines


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
