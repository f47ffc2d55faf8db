"""The manifest of a packed set: its format, and the size and sha256 of every file."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from srgan_dist.storage.encoding import ENCODINGS
from srgan_dist.utils.errors import UserError, masked
from srgan_dist.utils.json_text import load_json

SPLITS = ("train", "valid", "test")
MOST_SHARDS = 300_000  # of a set: at some 170 bytes each they fit into MANIFEST_BYTES
MANIFEST_BYTES = 2**26  # the largest manifest.json that is read
ROCK_RULE = "a rock is called by 1 to 100 printable characters without / and \\"

FORMAT = "srgan_dist shards"
INDEXED = "srgan_dist index of a WebDataset"  # of other people, whose shards stay as and where they are
MOST_ROW_BYTES = 256  # of a sample in an index, see index_dtype
VERSION = 3  # version 2, which had 2-D images only and called the encoding payload, is read too


def shard_name(split, number):
    return f"{split}-{number:06d}.tar"


def index_name(split):
    return f"{split}.index.npy"


def is_rock_name(name):
    """Return whether a rock can have this name, by which files and panels are called."""
    return bool(name.strip(". ")) and name.isprintable() and len(name) <= 100 and not set(name) & set("/\\")


def check_manifest_size(named, shards, content=b""):
    """Raise UserError for a set of more than MOST_SHARDS shards, or with too long a manifest.json.

    named: the option or file whose shards they are.
    """
    if shards > MOST_SHARDS:
        raise UserError(f"{named}: {shards:,} shards are more than the {MOST_SHARDS:,} that a set may have")
    if len(content) > MANIFEST_BYTES:
        raise UserError(
            f"{named}: the manifest of {shards:,} shards would have {len(content):,} bytes, more than the"
            f" {MANIFEST_BYTES:,} that are read; shorten the paths of the shards, e.g. index them in the"
            " folder they are in"
        )


def _rock(name):
    if not is_rock_name(name):
        raise ValueError(f"has the rock {name!r}, and {ROCK_RULE}")
    return name


def _inside(name):
    if Path(name).name != name:
        raise ValueError(f"names a file outside its folder: {name!r}")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}", name):
        raise ValueError(f"is not the name of a file of a set: {name!r}")
    return name


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileEntry(_Entry):
    """A file of the set."""

    file: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0, le=2**60)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardEntry(FileEntry):
    count: int = Field(ge=1)  # samples


class SplitEntry(_Entry):
    count: int = Field(ge=1)
    rocks: dict[str, int]  # samples of each
    index: FileEntry
    shards: list[ShardEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _counts_agree(self):
        for name, count in (
            ("shards", sum(shard.count for shard in self.shards)),
            ("rocks", sum(self.rocks.values())),
        ):
            if count != self.count:
                raise ValueError(f"its {name} have {count} samples, it says count={self.count}")
        if self.index.bytes > self.count * MOST_ROW_BYTES + 4096:  # it is read as a whole
            raise ValueError(f"its index has {self.index.bytes} bytes, too many for count={self.count}")
        return self


class Manifest(_Entry):
    """The content of OUT/manifest.json."""

    format: Literal[FORMAT] = FORMAT
    version: Literal[VERSION] = VERSION
    ndim: Literal[2, 3]  # axes of an image
    scale: int = Field(ge=2, le=1024)
    dtype: Literal["uint8", "uint16"]
    encoding: Literal[ENCODINGS] = "npy"  # of the images
    rocks: list[Annotated[str, AfterValidator(_rock)]]
    totals: dict[str, int]  # samples of each rock over all splits
    splits: dict[Literal[SPLITS], SplitEntry]
    options: dict[str, Any]  # of the build
    source_sha256: str  # of names and bytes of the images that were packed

    @property
    def again(self):
        """What to do with a set that is damaged, in words."""
        return "build the set again"

    @model_validator(mode="after")
    def _names_are_unique(self):
        files = [entry.file for split in self.splits.values() for entry in (split.index, *split.shards)]
        for names, kind in ((files, "file"), (self.rocks, "rock")):
            name, count = Counter(names).most_common(1)[0] if names else (None, 1)
            if count > 1:
                raise ValueError(f"lists the {kind} {name!r} {count} times")
        return self

    @model_validator(mode="after")
    def _encoding_fits(self):
        if (self.encoding, self.ndim) == ("png", 3):
            raise ValueError("has 3-D images as PNG files, which hold 2-D images only")
        return self


class Fields(_Entry):
    """What the members of a sample are, in a WebDataset of other people."""

    hr: str = Field(min_length=1, max_length=200)  # what follows the key in the name of the HR image: hr.png
    lr: str = Field(min_length=1, max_length=200)
    record: str = Field("json", min_length=1, max_length=200)  # of the JSON member
    rock: str | None = None  # of all samples; None: named by rock_field
    rock_field: str | None = None  # entry of the JSON member
    source_field: str | None = None  # the same, that names the slice or volume an image was cut from

    @property
    def reads_record(self):
        return self.rock_field is not None or self.source_field is not None


def _shard_place(name):
    """Check where a shard is: below the folder of the manifest, at an absolute path, or at a URL."""
    if re.fullmatch(r"(?!pipe|file)[a-z][a-z0-9+.-]+://[^\s?#]{1,4000}", name) and masked(name) == name:
        return name
    path = PurePosixPath(name)
    if not name or len(name) > 4096 or "\0" in name or ".." in path.parts or str(path) != name:
        raise ValueError(f"is not the path of a shard: {name!r}")
    if not path.is_absolute() and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise ValueError(f"names a shard by neither a path nor a URL: {name!r}")
    return name


class IndexedShard(ShardEntry):
    file: Annotated[str, AfterValidator(_shard_place)]


class IndexedSplit(SplitEntry):
    shards: list[IndexedShard] = Field(min_length=1)


class IndexedManifest(Manifest):
    """The content of OUT/manifest.json of a WebDataset of other people that is read in place."""

    format: Literal[INDEXED] = INDEXED
    encoding: Literal["npy", "files"]  # pixels that are mapped, or image files that are decoded once
    splits: dict[Literal[SPLITS], IndexedSplit]
    fields: Fields

    @property
    def again(self):
        return "delete its manifest.json and index its shards again"


def _without_repetition(pairs):
    """Return a JSON object; ValueError for a key that it has twice, of which programs take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {key!r} twice in one table")
    return found


def parse_manifest(content, path):
    """Return the Manifest of the bytes of manifest.json; raises UserError that names `path`."""
    try:
        content = load_json(content, finite=True, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    kinds = {FORMAT: Manifest, INDEXED: IndexedManifest}
    kind = kinds.get(str(content.get("format"))) if isinstance(content, dict) else None
    if kind is None:
        raise UserError(f"{path} is not a manifest of {FORMAT}")
    if kind is Manifest and content.get("version") == 2:
        content = _from_version_2(content)
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')}, this program reads 2 and {VERSION};"
            " build the set again"
        )
    splits = content["splits"].values() if isinstance(content.get("splits"), dict) else ()
    shards = [split["shards"] for split in splits if isinstance(split, dict) and "shards" in split]
    check_manifest_size(path, sum(len(each) for each in shards if isinstance(each, list)))
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its top level"
        raise UserError(
            f"{path} is damaged at {where}: {fault['msg'].removeprefix('Value error, ')};"
            " copy the file again or build the set again"
        ) from None


def _from_version_2(content):
    content = _payload_renamed(content) | {"version": VERSION, "ndim": 2}
    if isinstance(content.get("options"), dict):
        content["options"] = _payload_renamed(content["options"])
    return content


def _payload_renamed(entries):
    return {"encoding" if key == "payload" else key: value for key, value in entries.items()}
