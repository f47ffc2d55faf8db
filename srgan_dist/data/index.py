"""The directory of a packed data set: names, manifest, and the table that says where every pixel lies.

A set is a folder, or lies at a URL (`remote.py`):

    OUT/manifest.json          what the set is, and size and sha256 of every other file
    OUT/train.index.npy        one row of INDEX per sample, in the order of the shards
    OUT/train-000000.tar ...   samples; the same for valid and test
"""

import hashlib
import json
import re
import stat
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from srgan_dist.data.sample import BLOCK, key_problem
from srgan_dist.storage.cache import Cache
from srgan_dist.storage.decoded import DecodedShard, decoded_rows
from srgan_dist.storage.encoding import ENCODINGS, LARGEST_RATIO
from srgan_dist.storage.remote import Remote, is_url
from srgan_dist.utils.errors import UserError

SPLITS = ("train", "valid", "test")

FORMAT = "srgan_dist shards"
VERSION = 2
FETCHERS = 4  # shards that are fetched, or decoded, at a time

INDEX = np.dtype(
    [
        ("key", "S90"),
        ("rock", "<u2"),  # position in the manifest's list of rocks
        ("shard", "<u4"),
        ("hr_offset", "<u8"),  # in the tar, of the first pixel, or of the image file
        ("hr_bytes", "<u8"),  # from there on
        ("hr_height", "<u4"),
        ("hr_width", "<u4"),
        ("hr_crc32", "<u4"),  # of the pixels, decoded
        ("lr_offset", "<u8"),
        ("lr_bytes", "<u8"),
        ("lr_height", "<u4"),
        ("lr_width", "<u4"),
        ("lr_crc32", "<u4"),
        ("record_offset", "<u8"),  # of the JSON member
        ("record_bytes", "<u4"),
        ("darkest", "<u2"),  # grey levels of the HR image
        ("brightest", "<u2"),
    ]
)


def shard_name(split, number):
    return f"{split}-{number:06d}.tar"


def index_name(split):
    return f"{split}.index.npy"


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
        return self


class Manifest(_Entry):
    """What OUT/manifest.json says."""

    format: Literal[FORMAT] = FORMAT
    version: Literal[VERSION] = VERSION
    scale: int = Field(ge=2, le=1024)
    dtype: Literal["uint8", "uint16"]
    encoding: Literal[ENCODINGS] = "npy"  # how images are stored
    rocks: list[str]
    totals: dict[str, int]  # samples of each rock over all splits
    splits: dict[Literal[SPLITS], SplitEntry]
    options: dict[str, Any]  # of the build
    source_sha256: str  # of names and bytes of the images that were packed

    @model_validator(mode="after")
    def _names_are_unique(self):
        files = [entry.file for split in self.splits.values() for entry in (split.index, *split.shards)]
        for names, what in ((files, "file"), (self.rocks, "rock")):
            name, count = Counter(names).most_common(1)[0] if names else (None, 1)
            if count > 1:
                raise ValueError(f"lists the {what} {name!r} {count} times")
        return self


class Folder:
    """A set that lies in a folder of this machine; `remote.Remote` does the same for a URL."""

    def __init__(self, path):
        self.path = Path(path)

    def __str__(self):
        return str(self.path)

    def manifest(self):
        """Return the bytes of manifest.json; raises FileNotFoundError where there is none."""
        return (self.path / "manifest.json").read_bytes()

    def file(self, entry):
        """Return a file of the set, given its FileEntry: its path, or what else has `open` and a name."""
        return self.path / entry.file

    def check_files(self, entries):
        """Raise UserError if one of the files is missing or has another size than the manifest says."""
        for entry in entries:
            _check_size(self.file(entry), entry.bytes)


def _check_size(path, size):
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing although the manifest lists it; copy it again or build the set again"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file; copy it again or build the set again")
    if status.st_size != size:
        raise UserError(
            f"{path} has {status.st_size} bytes, the manifest says {size}; copy it again or build the set again"
        )


@dataclass(frozen=True)
class PackedSet:
    """A packed set: where it lies, and what it says of itself."""

    place: Any  # Folder or remote.Remote
    manifest: Manifest
    sha256: str  # of manifest.json, which has that of every other file: two equal sets have equal ones
    cache: Cache  # for copies of what lies elsewhere or has to be decoded

    def split(self, name, check_sizes=True, blank_corrupt_images=False):
        """Open one split for reading, or return None if the set has no such split.

        blank_corrupt_images: PNG images that cannot be decoded become blank, which their crc32 tells, instead of an error.
        Raises UserError when a shard is missing or has another size (unless check_sizes is False), or the index is not
        the one the manifest names.
        """
        split = self.stored_split(name, check_sizes)
        if split is None or self.manifest.encoding == "npy":
            return split
        rows, shards = decoded_rows(split.rows, split.dtype), []
        for number, (shard, entry) in enumerate(
            zip(split.shards, self.manifest.splits[name].shards, strict=True)
        ):
            mine = rows["shard"] == number
            shards.append(
                DecodedShard(
                    shard,
                    entry.sha256,
                    split.rows[mine],
                    rows[mine],
                    split.dtype,
                    self.cache,
                    blank_corrupt_images,
                )
            )
        return Split(self, name, rows, split.rows, shards)

    def stored_split(self, name, check_sizes=True):
        """Open one split as it lies in its tars; of PNG files only `split` reads the images."""
        entry = self.manifest.splits.get(name)
        if entry is None:
            return None
        self.place.check_files([entry.index, *(entry.shards if check_sizes else ())])
        table = self.place.file(entry.index)
        with table.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.index.sha256:
                way_out = (
                    "build the set again"
                    if isinstance(table, Path)
                    else f"delete its copy {table.copy}, which has been damaged"
                )
                raise UserError(
                    f"{table} is not the index that the manifest names (sha256 differs); {way_out}"
                )
            file.seek(0)
            rows = _load_rows(table, file, entry.count)
        _check_rows(table, rows, self.manifest, entry)
        _check_samples(table, rows, self.manifest, entry)
        return Split(self, name, rows, rows, [self.place.file(shard) for shard in entry.shards])


def open_set(address, cache=None):
    """Read and check the manifest of the set in a folder or at a URL; raises UserError that says what is there instead.

    cache: for copies of shards that lie elsewhere or have to be decoded; None: the one in the user's cache folder.
    """
    cache = cache or Cache()
    place = Remote(address, cache) if is_url(address) else Folder(address)
    try:
        content = place.manifest()
    except FileNotFoundError:
        raise UserError(
            f"{place} is not a packed data set: it has no manifest.json."
            " Make one with: python shards/build.py SOURCE OUT"
        ) from None
    except OSError as error:
        raise UserError(f"{place}/manifest.json cannot be read: {error}") from None
    manifest = _parse_manifest(content, f"{place}/manifest.json")
    return PackedSet(place, manifest, hashlib.sha256(content).hexdigest(), cache)


def open_split(address, name, check_sizes=True, cache=None):
    """Open one split of a set; see `open_set` and `PackedSet.split`."""
    return open_set(address, cache).split(name, check_sizes)


def read_manifest(address, cache=None):
    """Return the Manifest of a set; see `open_set`."""
    return open_set(address, cache).manifest


def _parse_manifest(content, path):
    try:
        content = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a manifest of {FORMAT}")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')}, this program reads {VERSION}; build the set again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its top level"
        raise UserError(
            f"{path} is damaged at {where}: {fault['msg'].removeprefix('Value error, ')};"
            " copy the file again or build the set again"
        ) from None


@dataclass(frozen=True)
class Split:
    """One split of a packed set: the table of its samples and the shards they lie in."""

    set: PackedSet
    name: str
    rows: np.ndarray  # of INDEX, with the places in what `shards` open
    stored: np.ndarray  # the same, with the places in the tars
    shards: list  # paths, or what else has `open` and a name, in the order of rows["shard"]

    def __len__(self):
        return len(self.rows)

    @property
    def place(self):
        return self.set.place

    @property
    def rocks(self):
        return self.set.manifest.rocks

    @property
    def scale(self):
        return self.set.manifest.scale

    @cached_property
    def dtype(self):
        return np.dtype(self.set.manifest.dtype)

    @property
    def is_cached(self):
        """Whether the shards are read from copies in a cache."""
        return not isinstance(self.shards[0], Path)

    @property
    def cached_bytes(self):
        """How many bytes each shard takes in a cache, 0 where it is read in its place."""
        return [shard.cached_bytes if self.is_cached else 0 for shard in self.shards]

    @property
    def transient_cache_bytes(self):
        """What tars that are fetched only to be decoded take in the cache on the way."""
        passing = [shard.transient_cache_bytes for shard in self.shards if isinstance(shard, DecodedShard)]
        return sum(sorted(passing)[-FETCHERS:])

    def rock(self, i):
        return self.rocks[self.rows["rock"][i]]

    def key(self, i):
        return self.rows["key"][i].decode()

    @property
    def smallest_lr(self):
        """The shortest side of any LR image in pixels: the largest square that can be cut from all of them."""
        return int(min(self.rows["lr_height"].min(), self.rows["lr_width"].min()))


def _load_rows(table, file, count):
    try:
        rows = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a file that only pretends
        raise UserError(
            f"{table} cannot be read: {str(error) or type(error).__name__}; build the set again"
        ) from None
    if not isinstance(rows, np.ndarray) or rows.dtype != INDEX or rows.shape != (count,):
        raise UserError(f"{table} does not hold {count} rows of this version's index; build the set again")
    return rows


def _check_rows(table, rows, manifest, entry):
    """Check that all that an index points to exists, lies as samples lie in a tar, and fits the scale."""
    shard_bytes = np.array([shard.bytes for shard in entry.shards], np.uint64)
    fits = (rows["shard"] < len(shard_bytes)) & (rows["rock"] < len(manifest.rocks))
    shard_bytes = shard_bytes[np.where(fits, rows["shard"], 0)]
    ends = {}
    for part in ("hr", "record", "lr"):
        size = rows[f"{part}_bytes"].astype(np.uint64)
        if part != "record":
            fits &= _may_hold(size, _image_bytes(rows, part, manifest.dtype), manifest.encoding)
        fits &= (
            (size > 0)
            & (size <= shard_bytes)
            & (rows[f"{part}_offset"] <= shard_bytes - np.minimum(size, shard_bytes))
        )
        ends[part] = rows[f"{part}_offset"] + size
    fits &= rows["record_offset"] == _next_content(ends["hr"])
    header = rows["lr_offset"] - _next_content(ends["record"])  # of the image file, before its pixels
    fits &= (header < (BLOCK if manifest.encoding == "npy" else 1)) & (rows["hr_offset"] % BLOCK == header)
    for length in ("height", "width"):
        fits &= rows[f"hr_{length}"] == manifest.scale * rows[f"lr_{length}"].astype(np.uint64)
    fits &= (rows["darkest"] <= rows["brightest"]) & (rows["brightest"] <= np.iinfo(manifest.dtype).max)
    if not fits.all():
        raise UserError(
            f"{table} does not fit its shards, first at row {int(np.argmin(fits))}; build the set again"
        )
    _check_overlap(table, rows, ends["lr"])


def _image_bytes(rows, side, dtype):
    pixels = rows[f"{side}_height"].astype(np.uint64) * rows[f"{side}_width"]
    return (
        np.minimum(pixels, 2**62) * np.dtype(dtype).itemsize
    )  # no overflow, and still more than any file has


def _may_hold(size, image_bytes, encoding):
    """Tell whether an image that takes `size` bytes in a tar may have so many bytes of pixels."""
    return (
        size == image_bytes if encoding == "npy" else image_bytes <= np.minimum(size, 2**50) * LARGEST_RATIO
    )


def _next_content(end):
    """Return where the content of the next member of a tar begins, after padding and a header."""
    return (end + (BLOCK - 1)) // BLOCK * BLOCK + BLOCK


def _check_overlap(table, rows, ends):
    order = np.lexsort((rows["hr_offset"], rows["shard"]))
    before, after = order[:-1], order[1:]
    overlap = (rows["shard"][before] == rows["shard"][after]) & (rows["hr_offset"][after] < ends[before])
    if overlap.any():
        one, other = sorted((int(before[overlap][0]), int(after[overlap][0])))
        raise UserError(f"{table} lets rows {one} and {other} overlap in their shard; build the set again")


def _check_samples(table, rows, manifest, entry):
    """Check that keys are usable and unique, and that rocks and shards have as many samples as the manifest says."""
    keys = [key.decode("ascii", "backslashreplace") for key in rows["key"].tolist()]
    problem = next(filter(None, map(key_problem, keys)), None)
    if problem:
        raise UserError(f"{table} is damaged: {problem}; build the set again")
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise UserError(f"{table} has the key {key!r} {count} times; build the set again")
    rocks = Counter(manifest.rocks[number] for number in rows["rock"].tolist())
    shards = Counter(entry.shards[number].file for number in rows["shard"].tolist())
    for counts, said in ((rocks, entry.rocks), (shards, {shard.file: shard.count for shard in entry.shards})):
        for name in sorted(counts.keys() | said.keys()):
            if counts[name] != said.get(name, 0):
                raise UserError(
                    f"{table} has {counts[name]} samples of {name}, the manifest says {said.get(name, 0)};"
                    " build the set again"
                )
