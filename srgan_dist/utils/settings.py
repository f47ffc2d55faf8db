"""What all settings have in common: typed, frozen, and no key that is not one of theirs."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every settings model; each is defined beside what it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
