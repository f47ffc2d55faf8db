"""Base and common types of all settings: typed, frozen, without unknown keys."""

from functools import reduce
from operator import or_
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from srgan_dist.utils.scales import SCALES

LARGEST = {float: 1e9, int: 2**63 - 1}  # above, clocks and counters overflow


class Settings(BaseModel):
    """Base of every settings model; each is defined beside what it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _check_largest(cls, value):
        largest = LARGEST.get(type(value))
        if largest and abs(value) > largest:
            raise ValueError(f"is beyond the largest number that a setting may have, {largest:g}")
        return value


def _check_scale(scale):
    if scale not in SCALES:
        raise ValueError(f"must be one of {', '.join(map(str, SCALES))}")
    return scale


def _check_path(path):
    if not path.isprintable():
        raise ValueError("holds a character that no path should have")
    return path


Path = Annotated[str, AfterValidator(_check_path), Field(min_length=1)]
Scale = Annotated[
    int, AfterValidator(_check_scale), Field(description="HR size over LR size: 2, 3, 4, 6 or 8")
]
NoiseChannels = Annotated[
    int,
    Field(
        ge=0,
        le=16,
        description="channels of noise on the HR grid, filtered, of which grain is made, with amplitudes that"
        " depend on the features; 0: none",
    ),
]
Dimensions = Annotated[Literal[2, 3], Field(description="2: images; 3: volumes")]


def one_of(models, default=None):
    """Return the union of settings models (any iterable) of which `name` chooses one; where it is left out,
    the one named `default`, if any.
    """

    def with_name(value):
        return {"name": default} | value if default and isinstance(value, dict) else value

    return Annotated[reduce(or_, models), Field(discriminator="name"), BeforeValidator(with_name)]
