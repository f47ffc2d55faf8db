"""Where a run is, and the settings that must match when it is resumed."""

import contextlib

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from srgan_dist.config import flat
from srgan_dist.models import DiscriminatorConfig, GeneratorConfig
from srgan_dist.utils.errors import UserError

VERSION = 2
BATCH = "data.batch_size"  # its name in a fingerprint
VERSION_1 = {  # names that fields had in version 1
    "updates": "global_step",
    "step": "phase_step",
    "skipped_in_row": "consecutive_skips",
    "ends": "phase_ends",
    "identity": "fingerprint",
}


class BestValidation(BaseModel):
    """The best validation of a phase."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    psnr: float  # on the validation split, in dB
    score: float | None = None  # by which it is the best, see PhaseConfig.best_by; None: of an older version
    phase_step: int
    global_step: int = Field(ge=0)


class RunState(BaseModel):
    """The position of a run; with networks and optimisers all that a checkpoint holds."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: int = VERSION
    global_step: int = Field(0, ge=0, lt=2**48)  # updates of the whole run
    sample_offset: int = 0  # samples seen beyond global_step times the batch: of updates with another batch
    phase: str | None = None  # running; None between phases
    phase_step: int = Field(0, ge=0)  # updates of that phase
    consecutive_skips: int = Field(0, ge=0)  # updates of that phase that were skipped, up to the last
    phase_seconds: float = Field(0.0, ge=0)  # of training, up to the last record
    phase_ends: dict[str, int] = {}  # finished phase -> global step at its end, in the order of the phases
    best: dict[str, BestValidation] = {}  # by phase
    records: int | None = Field(None, ge=0)  # lines of metrics.jsonl; None: of an older version
    wandb_id: str | None = None
    grey_ranges: list[dict[str, str | float]] | None = None  # of the LR images, see `trained_ranges`
    initial_weights: dict[str, str] = {}  # setting, e.g. pretrain.init_weights -> sha256 of the file it named
    cpu_threads: int | None = Field(None, ge=1)  # of a rank, where it has trained on CPU
    cpu_ranks: int | None = Field(None, ge=1)
    fingerprint: dict = {}  # see `fingerprint_of`

    def begin(self, phase):
        """Begin a phase, or with None end the one before."""
        self.phase, self.phase_step, self.consecutive_skips, self.phase_seconds = phase, 0, 0, 0.0

    @property
    def finished(self):
        """The finished phases, in their order."""
        return list(self.phase_ends)

    def samples_seen(self, batch_size):
        """Return the position in the data: crops up to the last update."""
        return self.sample_offset + self.global_step * batch_size

    def with_batch(self, fingerprint):
        """Return the state with which a new run goes on from it with the batch of its own fingerprint: at the
        same position in the data, on ranks and threads of its own choice.
        """
        old, new = self.fingerprint[BATCH], fingerprint[BATCH]
        return self.model_copy(
            update={
                "sample_offset": self.samples_seen(old) - self.global_step * new,
                "cpu_ranks": None,
                "cpu_threads": None,
                "fingerprint": fingerprint,
            }
        )

    def pinned_steps(self):
        """Return the global steps whose checkpoints stay: the end of each phase, and its best validation."""
        return {*self.phase_ends.values(), *(best.global_step for best in self.best.values())}


def fingerprint_of(config, train, blocks):
    """Return what the position in the data and the tensors of a checkpoint depend on, by the names of the
    settings.

    train: [(split, weight)]. blocks: for each how many shards are shuffled together, None: all.
    """
    return {
        "seed": config.seed,
        BATCH: config.data.batch_size,
        "data.lr_crop": config.data.lr_crop,
        "data.augment": config.data.augment,
        "data.max_bad_samples": config.data.max_bad_samples,
        "data.path (its content)": [[split.set.sha256, weight] for split, weight in train],
        "data.stream": config.data.stream and config.data.stream.model_dump(exclude={"workers", "buffer"}),
        "data.block_shards (data.cache_gib decides where it is null)": blocks if any(blocks) else None,
        "generator": config.generator.model_dump(mode="json"),
        # without what changes none of its tensors
        "discriminator": config.discriminator.model_dump(mode="json", exclude={"sync_batchnorm"}),
    }


def parse_state(content, path, config, fingerprint, new_run=False):
    """Turn the JSON of a checkpoint into RunState; raises UserError where it does not belong to this
    experiment. new_run: whether another run starts from it, whose batch may be another.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if version not in (1, VERSION):
        raise UserError(
            f"{path} holds a state of version {version}, this program reads 1 and {VERSION}; continue it"
            " with the srgan_dist that wrote it, or start a run from finished weights:"
            " --pretrain.weights=FILE"
        )
    # Its fields
    try:
        state = RunState.model_validate(content if version == VERSION else _from_version_1(content))
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"{path} holds no state that this program reads: {fault['msg']} at"
            f" {'.'.join(map(str, fault['loc']))}"
        ) from None

    # Settings that must match on resume
    saved, asked = flat(_with_newer_settings(state.fingerprint)), flat(fingerprint)
    changed = [
        f"{name}: {saved.get(name)} -> {asked.get(name)}"
        for name in dict.fromkeys([*saved, *asked])
        if saved.get(name) != asked.get(name)
    ]
    batch = saved.get(BATCH)
    if new_run and isinstance(batch, int) and batch >= 1:  # it goes on at the same crop
        changed = [line for line in changed if not line.startswith(f"{BATCH}:")]
    if changed:
        words = "; ".join(changed).encode(errors="backslashreplace").decode()  # JSON may hold half characters
        raise UserError(
            f"{path} was saved with other settings ({words}). Restore them, or start a run from"
            " finished weights instead: --pretrain.weights=FILE"
        )

    # Phases in the order of the config
    began = [*state.finished, *filter(None, [state.phase])]
    phases = [name for name, _ in config.phases()]
    if began != phases[: len(began)] or state.phase_step > state.global_step:
        raise UserError(
            f"{path} was saved after {', '.join(began)}, but the phases of this config are"
            f" {', '.join(phases)}"
        )
    if late := [step for step in state.pinned_steps() if not 0 <= step <= state.global_step]:
        raise UserError(
            f"{path} holds no state that this program reads: the end or the best validation of a phase at"
            f" global_step={late[0]}, and the run is at {state.global_step}"
        )
    if not 0 <= state.samples_seen(batch) < 2**62:
        raise UserError(
            f"{path} holds no state that this program reads: sample_offset={state.sample_offset} at"
            f" global_step={state.global_step} is no position in the data"
        )
    return state if batch == fingerprint[BATCH] else state.with_batch(fingerprint)


def fingerprint_and_step(content):
    """Return the fingerprint and the global step in the JSON of a checkpoint's state, of any version that is
    read; raises LookupError or TypeError where it is of none.
    """
    state = {1: _from_version_1, VERSION: dict}[content["version"]](content)
    return _with_newer_settings(state["fingerprint"]), state["global_step"]


def _with_newer_settings(fingerprint):
    """Return a saved fingerprint with the settings of networks that came later, at their defaults."""
    models = {"generator": GeneratorConfig, "discriminator": DiscriminatorConfig}
    exclude = {"generator": set(), "discriminator": {"sync_batchnorm"}}
    complete = {}
    for name, model in models.items():
        with contextlib.suppress(ValidationError):  # a setting that is no more is named as a difference
            settings = TypeAdapter(model).validate_python(fingerprint.get(name))
            complete[name] = settings.model_dump(mode="json", exclude=exclude[name])
    return fingerprint | complete


def _from_version_1(content):
    """Return a state of version 1 with the names of version 2; what is wrong in it stays, for the validation
    to name.
    """
    state = {VERSION_1.get(name, name): value for name, value in content.items()} | {"version": VERSION}
    if isinstance(state.get("best"), dict):
        state["best"] = {
            phase: {VERSION_1.get(name, name): value for name, value in best.items()}
            if isinstance(best, dict)
            else best
            for phase, best in state["best"].items()
        }
    saved = state.get("fingerprint")
    if isinstance(saved, dict) and isinstance(saved.get("discriminator"), dict):
        state["fingerprint"] = saved | {
            "data.augment": "all" if saved.get("data.augment") is True else "none",
            "discriminator": saved["discriminator"] | {"name": "dense"},
        }
    return state
