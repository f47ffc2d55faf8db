"""Settings of the training data: sets, crops, checks and cache."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from srgan_dist.data.degrade import DegradationConfig
from srgan_dist.data.jitter import JitterConfig
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


def _listed(shards):
    return [shards] if isinstance(shards, str) else shards


Shards = Annotated[list[Path], BeforeValidator(_listed), Field(min_length=1)]


class StreamConfig(Settings):
    """Shards of other people's WebDatasets that are streamed, and what is in them."""

    train: Shards = Field(
        description="shards, or one: paths below data.path or anywhere, globs, brace expressions, URLs"
    )
    valid: Shards | None = Field(None, description="the same; streamed once, into a local copy")
    test: Shards | None = Field(None, description="the same")
    hr: str | None = Field(None, min_length=1, max_length=200, description="field of HR; null: the only hr.*")
    lr: str | None = Field(None, min_length=1, max_length=200, description="field of LR; null: the only lr.*")
    rock: str | None = Field(None, description="one rock of all samples; null: rock_field names it")
    rock_field: str | None = Field(None, description="entry of the samples' JSON that names their rock")
    record: str = Field("json", min_length=1, max_length=200, description="field of that JSON")
    workers: int = Field(
        2, ge=1, le=64, description="streams of each rank, a thread each; over all ranks at most one a shard"
    )
    buffer: int = Field(
        1000,
        ge=1,
        le=2**20,
        description="samples that each stream shuffles together, kept as they are stored",
    )

    @model_validator(mode="after")
    def _check_rock(self):
        if (self.rock is None) == (self.rock_field is None):
            raise ValueError("give either rock, of all samples, or rock_field, an entry of their JSON")
        return self


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
    jitter: JitterConfig | None = Field(
        None,
        description="contrast and brightness that LR and HR of each crop of the training get alike, for"
        " networks that meet rocks of other grey levels; null: none, as in the paper",
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
    reader: Literal["indexed", "webdataset"] = Field(
        "indexed",
        description="indexed: any crop of a packed or indexed set, in an order that is exact; webdataset: the"
        " shards of stream as they come, for those that cannot be indexed",
    )
    stream: StreamConfig | None = Field(None, description="of reader: webdataset")

    @model_validator(mode="after")
    def _check_verify(self):
        if self.max_bad_samples and self.verify != "full":
            raise ValueError(
                f"max_bad_samples={self.max_bad_samples} needs verify=full, not {self.verify}: only that"
                f" finds them"
            )
        return self

    @model_validator(mode="after")
    def _check_reader(self):
        if (self.reader == "webdataset") != (self.stream is not None):
            raise ValueError(
                f"reader={self.reader} and stream={'null' if self.stream is None else 'a table'} do not fit;"
                " reader=webdataset streams the shards that stream names"
            )
        unfit = {"train": self.train, "block_shards": self.block_shards, "verify=full": self.verify == "full"}
        if self.stream and (names := [name for name, value in unfit.items() if value]):
            raise ValueError(f"{names[0]} needs an index, which reader=webdataset has not; leave it out")
        return self

    def train_sets(self):
        """Return the sets that are trained on."""
        return self.train or [TrainSet(path=self.path)]
