"""The directory of a packed data set: names, manifest, and the table that says where every pixel lies.

    OUT/manifest.json          what the set is, and size and sha256 of every other file
    OUT/train.index.npy        one row of INDEX per sample, in the order of the shards
    OUT/train-000000.tar ...   samples; the same for valid and test
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from srgan_dist.errors import UserError
from srgan_dist.files import sha256_of

SPLITS = ("train", "valid", "test")

FORMAT = "srgan_dist shards"
VERSION = 1

INDEX = np.dtype([
    ("key", "S90"),
    ("rock", "<u2"),  # position in the manifest's list of rocks
    ("shard", "<u4"),
    ("hr_offset", "<u8"),  # of the first pixel in the tar
    ("hr_height", "<u4"),
    ("hr_width", "<u4"),
    ("hr_crc32", "<u4"),  # of the pixels
    ("lr_offset", "<u8"),
    ("lr_height", "<u4"),
    ("lr_width", "<u4"),
    ("lr_crc32", "<u4"),
    ("record_offset", "<u8"),  # of the JSON member
    ("record_bytes", "<u4"),
    ("darkest", "<u2"),  # grey levels of the HR image
    ("brightest", "<u2"),
])


def shard_name(split, number):
    return f"{split}-{number:06d}.tar"


def index_name(split):
    return f"{split}.index.npy"


def _inside(name):
    if Path(name).name != name:
        raise ValueError(f"names a file outside its folder: {name!r}")
    return name


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileEntry(_Entry):
    """A file of the set."""

    file: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardEntry(FileEntry):
    count: int = Field(ge=1)  # samples


class SplitEntry(_Entry):
    count: int = Field(ge=1)
    rocks: dict[str, int]  # samples of each
    index: FileEntry
    shards: list[ShardEntry]


class Manifest(_Entry):
    """What OUT/manifest.json says."""

    format: Literal[FORMAT] = FORMAT
    version: Literal[VERSION] = VERSION
    scale: int = Field(ge=2)
    dtype: Literal["uint8", "uint16"]
    rocks: list[str]
    totals: dict[str, int]  # samples of each rock over all splits
    splits: dict[Literal[SPLITS], SplitEntry]
    options: dict[str, Any]  # of the build
    source_sha256: str  # of names and bytes of the images that were packed


def read_manifest(directory):
    """Read and check OUT/manifest.json; raises UserError that says what the directory is instead."""
    path = Path(directory) / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{directory} is not a packed data set: it has no manifest.json."
                        " Make one with: python shards/build.py SOURCE OUT") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a manifest of {FORMAT}")
    if content.get("version") != VERSION:
        raise UserError(f"{path} has version {content.get('version')}, this program reads {VERSION}; build the set again")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path} is damaged at {where}: {fault['msg'].removeprefix('Value error, ')};"
                        " copy the file again or build the set again") from None


@dataclass(frozen=True)
class Split:
    """One split of a packed set: the table of its samples and the shards they lie in."""

    directory: Path
    set_sha256: str  # of the manifest, which has that of every other file: two equal sets have equal ones
    name: str
    rows: np.ndarray  # of INDEX
    shards: list  # paths, in the order of rows["shard"]
    rocks: list
    dtype: np.dtype
    scale: int

    def __len__(self):
        return len(self.rows)

    def rock(self, i):
        return self.rocks[self.rows["rock"][i]]

    def key(self, i):
        return self.rows["key"][i].decode()

    @property
    def smallest_lr(self):
        """The shortest side of any LR image in pixels: the largest square that can be cut from all of them."""
        return int(min(self.rows["lr_height"].min(), self.rows["lr_width"].min()))


def open_split(directory, name):
    """Open one split of a packed set, or return None if the set has no such split.

    Raises UserError when a file is missing, has another size, or the index is not the one the manifest names.
    """
    directory, manifest = Path(directory), read_manifest(directory)
    entry = manifest.splits.get(name)
    if entry is None:
        return None
    table = directory / entry.index.file
    _check_size(table, entry.index.bytes)
    if sha256_of(table) != entry.index.sha256:
        raise UserError(f"{table} is not the index that the manifest names (sha256 differs); build the set again")
    shards = [directory / shard.file for shard in entry.shards]
    for path, shard in zip(shards, entry.shards, strict=True):
        _check_size(path, shard.bytes)
    rows = np.load(table, allow_pickle=False)
    if rows.dtype != INDEX or len(rows) != entry.count:
        raise UserError(f"{table} does not hold {entry.count} rows of this version's index; build the set again")
    _check_rows(table, rows, manifest, entry)
    set_sha256 = sha256_of(directory / "manifest.json")
    return Split(directory, set_sha256, name, rows, shards, manifest.rocks, np.dtype(manifest.dtype), manifest.scale)


def _check_size(path, size):
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path} is missing although the manifest lists it; copy it again or build the set again") from None
    if actual != size:
        raise UserError(f"{path} has {actual} bytes, the manifest says {size}; copy it again or build the set again")


def _check_rows(table, rows, manifest, entry):
    """Check that all that an index points to exists, and that its pairs fit the scale."""
    ends = np.array([shard.bytes for shard in entry.shards], np.uint64)
    pixel_bytes = np.uint64(np.dtype(manifest.dtype).itemsize)
    fits = (rows["shard"] < len(ends)) & (rows["rock"] < len(manifest.rocks))
    ends = ends[np.where(fits, rows["shard"], 0)]
    for side in ("hr", "lr"):
        pixels = rows[f"{side}_height"].astype(np.uint64) * rows[f"{side}_width"]
        fits &= (pixels > 0) & (pixels <= ends // pixel_bytes)
        fits &= rows[f"{side}_offset"] <= ends - np.minimum(pixels * pixel_bytes, ends)
    fits &= rows["record_offset"] <= ends - np.minimum(rows["record_bytes"], ends)
    for length in ("height", "width"):
        fits &= rows[f"hr_{length}"] == manifest.scale * rows[f"lr_{length}"]
    if not fits.all():
        raise UserError(f"{table} does not fit its shards, first at row {int(np.argmin(fits))}; build the set again")
