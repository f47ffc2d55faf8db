"""Where a run is, and what it cannot change without becoming another run."""

from pydantic import BaseModel, ConfigDict, ValidationError

from srgan_dist.errors import UserError


class State(BaseModel):
    """The position of a run; with networks and optimisers all that a checkpoint holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    updates: int = 0  # of the whole run, so also the position in the data
    phase: str | None = None  # running; None between phases
    step: int = 0  # updates of that phase
    phase_seconds: float = 0.0  # of training, without validations and checkpoints, up to the last report
    finished: list[str] = []  # phases
    best: dict[str, dict[str, float]] = {}  # phase -> {"psnr", "step"} of its best validation
    wandb_id: str | None = None
    identity: dict = {}  # see `identity_of`


def identity_of(config, split):
    """Return what the position in the data and the tensors of a checkpoint depend on, by the names of the settings."""
    return {
        "seed": config.seed,
        "data.batch_size": config.data.batch_size,
        "data.lr_crop": config.data.lr_crop,
        "data.augment": config.data.augment,
        "data.path (its content)": split.set_sha256,
        "generator": config.generator.model_dump(mode="json"),
        "discriminator": config.discriminator.model_dump(mode="json"),
    }


def parse_state(content, path, config, identity):
    """Turn the JSON of a checkpoint into State; raises UserError where it does not belong to this experiment."""
    try:
        state = State.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path} holds no state that this program reads: {error.errors()[0]['msg']}"
                        f" at {'.'.join(map(str, error.errors()[0]['loc']))}") from None
    changed = [f"{name}: {state.identity.get(name)} -> {value}" for name, value in identity.items()
               if state.identity.get(name) != value]
    if changed:
        raise UserError(f"{path} was saved with other settings ({'; '.join(changed)}). Restore them, or start a run"
                        " from finished weights instead: --pretrain.weights=FILE")
    unknown = {*state.finished, *filter(None, [state.phase])} - {name for name, _ in config.phases()}
    if unknown:
        raise UserError(f"{path} was saved in a run with the phases {', '.join(sorted(unknown))}, which this config lacks")
    return state
