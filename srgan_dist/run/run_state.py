"""Where a run is, and what it cannot change without becoming another run."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srgan_dist.config import flat
from srgan_dist.utils.errors import UserError

VERSION = 1


class Best(BaseModel):
    """The best validation of a phase."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    psnr: float  # on the validation split, in dB
    step: int  # of the phase
    updates: int = Field(ge=0)  # of the whole run


class State(BaseModel):
    """The position of a run; with networks and optimisers all that a checkpoint holds."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: int = VERSION
    updates: int = Field(0, ge=0, lt=2**48)  # of the whole run, so also the position in the data
    phase: str | None = None  # running; None between phases
    step: int = Field(0, ge=0)  # updates of that phase
    skipped_in_row: int = Field(0, ge=0)  # updates of that phase, up to now
    phase_seconds: float = Field(
        0.0, ge=0
    )  # of training, without validations and checkpoints, up to the last report
    ends: dict[str, int] = {}  # finished phase -> updates at its end, in the order of the phases
    best: dict[str, Best] = {}  # phase -> its best validation
    wandb_id: str | None = None
    cpu_threads: int | None = Field(None, ge=1)  # of a rank, where it has trained on CPU
    cpu_ranks: int | None = Field(None, ge=1)
    identity: dict = {}  # see `fingerprint_of`

    def begin(self, phase):
        """Note that a phase begins, or with None that the one before it is over."""
        self.phase, self.step, self.skipped_in_row, self.phase_seconds = phase, 0, 0, 0.0

    @property
    def finished(self):
        """The finished phases, in their order."""
        return list(self.ends)

    def pinned_updates(self):
        """Return the updates whose checkpoints stay: the end of each phase, and its best validation."""
        return {*self.ends.values(), *(best.updates for best in self.best.values())}


def fingerprint_of(config, train, blocks):
    """Return what the position in the data and the tensors of a checkpoint depend on, by the names of the settings.

    train: [(split, weight)]. blocks: for each how many shards are shuffled together, None: all.
    """
    return {
        "seed": config.seed,
        "data.batch_size": config.data.batch_size,
        "data.lr_crop": config.data.lr_crop,
        "data.augment": config.data.augment,
        "data.max_bad_samples": config.data.max_bad_samples,
        "data.path (its content)": [[split.set.sha256, weight] for split, weight in train],
        "data.block_shards (data.cache_gib decides where it is null)": blocks if any(blocks) else None,
        "generator": config.generator.model_dump(mode="json"),
        "discriminator": config.discriminator.model_dump(
            mode="json", exclude={"sync_batchnorm"}
        ),  # the same tensors
    }


def parse_state(content, path, config, identity):
    """Turn the JSON of a checkpoint into State; raises UserError where it does not belong to this experiment."""
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} holds a state of version {version}, this program reads {VERSION}; continue it with the"
            " srgan_dist that wrote it, or start a run from finished weights: --pretrain.weights=FILE"
        )
    try:
        state = State.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"{path} holds no state that this program reads: {error.errors()[0]['msg']}"
            f" at {'.'.join(map(str, error.errors()[0]['loc']))}"
        ) from None
    saved, asked = flat(state.identity), flat(identity)
    changed = [
        f"{name}: {saved.get(name)} -> {asked.get(name)}"
        for name in dict.fromkeys([*saved, *asked])
        if saved.get(name) != asked.get(name)
    ]
    if changed:
        raise UserError(
            f"{path} was saved with other settings ({'; '.join(changed)}). Restore them, or start a run"
            " from finished weights instead: --pretrain.weights=FILE"
        )
    began = [*state.finished, *filter(None, [state.phase])]
    phases = [name for name, _ in config.phases()]
    if began != phases[: len(began)] or state.step > state.updates:
        raise UserError(
            f"{path} was saved after {', '.join(began)}, but the phases of this config are {', '.join(phases)}"
        )
    return state
