"""Preflight checks: everything that can be checked before a GPU is taken, and where the training starts."""

from dataclasses import dataclass
from pathlib import Path

from srgan_dist.config import ConfigError, differences, load_config
from srgan_dist.losses.perceptual import VGGLossConfig, checked_weights_file
from srgan_dist.models.weights_file import load_generator
from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, read_state
from srgan_dist.run.data_checks import block_shards_of, open_splits, streamed_crops
from srgan_dist.run.initial_weights import check_initial_weights
from srgan_dist.run.run_state import BATCH, RunState, fingerprint_and_step, fingerprint_of, parse_state
from srgan_dist.tracking.tracker import check_trackers
from srgan_dist.utils.errors import UserError

# Settings that decide nothing of what is learnt. Of the data's the path may change; its content, and the
# blocks in which it is shuffled, are compared by the fingerprint.
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
    "activation_checkpointing",
    "device",
    "group_timeout_minutes",
    "max_consecutive_skips",
    "tracking.",
    "data.cache",
    "data.block_shards",
    "data.path",
    "data.stream.buffer",
    "data.stream.workers",
    "data.train",
)


@dataclass(frozen=True)
class Preflight:
    """The data of a training, and where it starts or continues."""

    train: list  # (split, weight) of every set
    eval_splits: dict  # the valid and the test split, as far as there are any
    blocks: list  # for every training set how many shards are shuffled together, None: all
    run_directory: Path
    checkpoint: Path | None
    state: RunState
    notes: tuple = ()  # in words what is unusual about the start


def preflight(config, resume="auto", world_size=1):
    """Check a config against data, weight files and run directory; raises UserError that says what to change.

    resume: "auto" continues the run directory if it holds a checkpoint, "never" only starts a new run, a path
    starts from that checkpoint unless the run directory has one of its own by now.
    """
    _check_batch(config, world_size)
    check_trackers(config.tracking)
    train, eval_splits = open_splits(config)
    streamed_crops(config, train[0][0], 0, world_size)
    _check_batch_norm(config, world_size)
    for field, loss in config.losses_of(VGGLossConfig).items():
        if loss.weights != "random":
            _naming(field, checked_weights_file, loss)
    for name, phase in config.phases():
        if phase.weights is not None:
            _check_weights(config, name, phase.weights)
    run_directory = Path(config.output) / config.name
    _check_place(config, run_directory)
    blocks = block_shards_of(config, [split for split, _ in train], eval_splits.values(), world_size)
    start = _find_start(config, fingerprint_of(config, train, blocks), run_directory, resume)
    check_initial_weights(config, start[1])
    return Preflight(train, eval_splits, blocks, run_directory, *start)


def _check_place(config, run_directory):
    """Raise ConfigError where a file is in the way of the run directory."""
    for folder in (run_directory, *run_directory.parents):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"output={config.output}: {folder} is a file; choose another folder or name")


def _check_batch(config, world_size):
    """Raise ConfigError unless ranks and micro-batches share the batch equally."""
    size, micro_batches = config.data.batch_size, config.gradient_accumulation_steps
    if size % world_size:
        raise ConfigError(
            f"data.batch_size={size} cannot be shared by {world_size} ranks equally; use a multiple of"
            f" {world_size}"
        )
    if size % (world_size * micro_batches):
        raise ConfigError(
            f"data.batch_size={size} cannot be cut into gradient_accumulation_steps={micro_batches}"
            f" micro-batches on each of {world_size} ranks; use a multiple of {world_size * micro_batches}"
        )


def _check_batch_norm(config, world_size):
    if not config.needs_discriminator() or config.discriminator.name == "patch":
        return  # what that one normalises has two pixels a side or more
    side = config.discriminator.final_side(config.hr_crop)
    batches = config.gradient_accumulation_steps * (1 if config.discriminator.sync_batchnorm else world_size)
    if side == 1 and config.data.batch_size == batches:
        raise ConfigError(
            f"data.batch_size={config.data.batch_size} over {world_size} ranks leaves batch normalisation"
            f" one value per channel at data.lr_crop={config.data.lr_crop},"
            f" gradient_accumulation_steps={config.gradient_accumulation_steps}; enlarge one of the first"
            " two"
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


# Start


def _find_start(config, fingerprint, run_directory, resume):
    """Return (checkpoint or None, state, notes for people) to start from."""
    # A run that is continued
    own = run_directory / "checkpoints"
    if list_checkpoints(own):
        if resume == "never":
            raise ConfigError(
                f"--resume never: {run_directory} has checkpoints of its own; choose another name, or"
                " continue it with --resume auto"
            )
        _check_recorded(config, run_directory)
        path, content = newest_checkpoint(own)
        return path, parse_state(content, path, config, fingerprint), ()
    if any((run_directory / "weights").glob("*.safetensors")):
        # It ended between the weights of a phase and its checkpoint
        _check_recorded(config, run_directory)

    # A new run, from nothing or from a checkpoint of another one
    if resume in ("auto", "never"):
        return None, RunState(fingerprint=fingerprint), ()
    path = Path(resume).resolve()
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"--resume {resume} is none of auto, never and a checkpoint, e.g."
            " runs/NAME/checkpoints/step-00001000"
        )
    content = read_state(path)
    state = parse_state(content, path, config, fingerprint, new_run=True)
    best = {phase: best for phase, best in state.best.items() if phase in state.phase_ends}
    state = state.model_copy(update={"wandb_id": None, "best": best})
    return path, state, _notes_of_batch(config, fingerprint_and_step(content)[0][BATCH], state)


def _notes_of_batch(config, before, state):
    """Say what becomes of the position of a checkpoint whose batch was `before`."""
    batch = config.data.batch_size
    if before == batch:
        return ()
    return (
        f"data.batch_size: {before} -> {batch}; goes on behind the {state.samples_seen(batch):,} crops that"
        f" were seen in {state.global_step:,} updates. Steps and learning rates are those of the settings,"
        " which count updates of either size",
    )


def _check_recorded(config, run_directory):
    """Raise ConfigError if a run directory holds a run whose results another config decided."""
    try:
        before = load_config(run_directory / "config.yaml", model=type(config))
    except ConfigError as error:
        raise ConfigError(
            f"{run_directory} holds a run whose record cannot be read ({error}). Choose another name, or,"
            " where these are settings of an earlier version, give them their new names in that file"
        ) from None
    if changed := [line for line in differences(before, config) if not line.startswith(CHANGEABLE_ON_RESUME)]:
        raise ConfigError(
            f"{run_directory} holds a run with another config ({'; '.join(changed)}). Choose another name"
            " (with --resume PATH it can begin at a checkpoint of this one), or restore these settings to"
            " continue it"
        )
