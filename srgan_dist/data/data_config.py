"""Settings of the training data: sets, crops, checks and cache."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from srgan_dist.data.degrade import DegradationConfig
from srgan_dist.storage.cache import DEFAULT_GIB
from srgan_dist.utils.settings import Path, Settings


def _no_bool(augment):
    if isinstance(augment, bool):
        raise ValueError(f"is now one of none, flips and all: use {'all' if augment else 'none'}")
    return augment


class TrainSet(Settings):
    """One of several sets that are trained on together."""

    path: Path = Field(description="folder or URL of a packed data set; its train split is used")
    weight: float = Field(
        1.0, gt=0, le=1e6, description="its share of the crops, in proportion to the others'"
    )


class DataConfig(Settings):
    """What is trained on, and how it is cut."""

    path: Path = Field(
        description="folder of a packed data set (srgan-dist build), or its URL: https://, s3://, hf://, any"
        " of fsspec"
    )
    train: list[TrainSet] | None = Field(
        None,
        min_length=1,
        description="train on these sets, mixed by weight; null: on that of path, which in any case"
        " validates",
    )
    lr_crop: int = Field(
        48,
        ge=1,
        le=2**14,
        description="side of the LR crops in pixels; HR crops are generator.scale times that",
    )
    batch_size: int = Field(
        16, ge=1, le=2**20, description="crops per update over all GPUs; each takes an equal share"
    )
    augment: Annotated[Literal["none", "flips", "all"], BeforeValidator(_no_bool)] = Field(
        "none",
        description="orientations that are drawn per crop: flips along every axis, or all with rotations: 8"
        " of an image,"
        " 48 of a volume (the paper's code: none)",
    )
    degradation: DegradationConfig | None = Field(
        None,
        description="blur, gain and noise that each LR crop of the training gets on top of what its set has,"
        " for networks that meet worse scans; null: none",
    )
    verify: Literal["full", "size", "none"] = Field(
        "size",
        description="before the training compare the shards with what was packed: every pixel and tar"
        " header, only sizes, nothing",
    )
    max_bad_samples: int = Field(
        0,
        ge=0,
        description="damaged training samples, found by verify: full, that others may stand in for; more"
        " stop the training",
    )

    cache: Path | None = Field(
        None, description="folder for copies of remote shards; null: in the user's cache folder"
    )
    cache_gib: float = Field(
        DEFAULT_GIB, gt=0, le=2**20, description="what the copies may take; the least recently used go first"
    )
    block_shards: int | None = Field(
        None,
        ge=1,
        description="shuffle blocks of this many shards, one block after the other; null: all samples,"
        " or as many shards as cache_gib has room for where it is less than the set",
    )

    @model_validator(mode="after")
    def _check_verify(self):
        if self.max_bad_samples and self.verify != "full":
            raise ValueError(
                f"max_bad_samples={self.max_bad_samples} needs verify=full, not {self.verify}: only that"
                f" finds them"
            )
        return self

    def train_sets(self):
        """Return the sets that are trained on."""
        return self.train or [TrainSet(path=self.path)]
