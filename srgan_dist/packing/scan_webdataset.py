"""What is in a shard of a WebDataset of other people: where the images of each pair are, and what they hold.

Members are grouped into samples as webdataset does. A fault of a shard or a sample is a line that names both.
"""

import contextlib
import hashlib
import mmap
import os
import re
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srgan_dist.data.index import index_dtype
from srgan_dist.data.manifest import ROCK_RULE, is_rock_name
from srgan_dist.data.member_image import SUFFIXES, pixels_offset, read_member, suffix_of
from srgan_dist.data.sample import text_entry
from srgan_dist.integrity.tar_structure import COMPRESSIONS, KINDS
from srgan_dist.packing.pictures import Look, look
from srgan_dist.storage.encoding import LARGEST_FILE, EncodingError
from srgan_dist.storage.remote import Remote, is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular, sha256_of
from srgan_dist.utils.json_text import load_json
from srgan_dist.utils.scales import SCALES

MOST_FAULTS = 20  # of one shard, after which it is not read on
LARGEST_RECORD = 2**24  # bytes of a JSON member


_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # key and field, as webdataset splits them
_META = re.compile(r"__[^/]*__($|/)")  # members that webdataset leaves out
_BLOCK = 512
_PIECE = 2**20
_DECOMPRESS = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz", "zstd": "zstd -d --rm"}


class Image(NamedTuple):
    """An image of a pair: a member, and its pixels in it if they can be mapped."""

    offset: int  # of the member's content in the tar
    bytes: int
    pixels_offset: int | None  # in the content
    crc32: int  # of the pixels
    nbytes: int  # of the pixels


class Pair(NamedTuple):
    """A sample of a shard."""

    key: str  # its own
    rock: str
    hr: Image
    lr: Image
    record_offset: int  # of the JSON member; 0 where it is not read
    record_bytes: int
    lr_shape: tuple
    scale: int
    dtype: str
    darkest: int  # grey levels of HR
    brightest: int
    content: bytes  # hash of HR, by which the same picture is found in another split
    look: Look  # by which pairs that do not fit are found


@dataclass
class Shard:
    """What a shard holds."""

    bytes: int
    sha256: str
    pairs: list = field(default_factory=list)
    faults: list = field(default_factory=list)


class _Fault(Exception):
    """What is wrong with a sample."""


def scan_shard(job):
    """Read a shard, job: (path or URL, Fields, Cache): a Shard. Raises UserError for a file that is none."""
    address, fields, cache = job
    with _local(address, cache) as path:
        shard = _scan(path, fields)
    if is_url(address):
        shard.faults = [fault.replace(str(path), address) for fault in shard.faults]
    return shard


@contextlib.contextmanager
def _local(address, cache):
    """Yield the path of a shard, of a remote one that of its copy in the cache, which is kept.

    It is named by its content at the end, which is not known before: a shard is fetched again for each index.
    """
    if not is_url(address):
        yield address
        return
    folder, _, name = address.rpartition("/")
    with Remote(folder, cache).download(name) as copy:  # while it is open it is not evicted
        path = Path(copy.name)
        try:
            yield path
            cache.rename(path, sha256_of(path))
        except UserError as error:
            raise UserError(str(error).replace(str(path), address)) from None
        finally:
            path.unlink(missing_ok=True)


def _scan(path, fields):
    """Read a shard on this machine: a Shard."""
    check_is_tar(path)
    status = os.stat(path)
    shard = Shard(status.st_size, sha256_of(path))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for key, members in samples(path):
                if len(shard.faults) == MOST_FAULTS:
                    return shard
                try:
                    shard.pairs.append(_pair(key, members, data, fields))
                except _Fault as fault:
                    shard.faults.append(f"{path}: sample {key!r} {fault}")
        except UserError as error:
            shard.faults.append(str(error))
    if (os.stat(path).st_mtime_ns, os.stat(path).st_size) != (status.st_mtime_ns, status.st_size):
        raise UserError(f"{path} was changed while it was read; start again when it is complete")
    if not shard.pairs and not shard.faults:
        shard.faults.append(f"{path}: holds no sample")
    return shard


def check_is_tar(path):
    """Raise UserError for what is no uncompressed tar in a regular file."""
    try:
        with open_regular(path) as file:
            head = file.read(_BLOCK)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; give the shards as they are, e.g. 'shards-{{000000..000003}}.tar'"
        ) from None
    for magic, compression in COMPRESSIONS.items():
        if head.startswith(magic):
            raise UserError(
                f"{path} is compressed by {compression}, so nothing in it can be read by itself; decompress"
                f" it with: {_DECOMPRESS[compression]} {path}"
            )
    try:
        if len(head) < _BLOCK:
            raise tarfile.HeaderError(f"{len(head)} bytes")
        if head.strip(b"\0"):
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise UserError(f"{path} is no tar file ({error}); copy it again") from None


def samples(path):
    """Yield (key, {field in lower case: tarfile.TarInfo}) of a shard in its order.

    Raises UserError for a tar that is cut short or damaged, or has a second one behind it: other readers stop
    there without a word.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            key, members = None, {}
            while (member := tar.next()) is not None:
                tar.members = []  # which would hold all of them
                match = _NAME.fullmatch(member.name)
                if member.isdir() or not match or _META.match(member.name):
                    continue
                if match[1] != key:
                    if members:
                        yield key, members
                    key, members = match[1], {}
                name = match[2].lower()
                if name in members:
                    raise UserError(f"{path}: sample {key!r} has {name} twice; webdataset would fail on it")
                members[name] = member
            if members:
                yield key, members
            end = tar.offset
    except tarfile.TarError as error:
        raise UserError(f"{path} is cut short or damaged ({error}); copy it again") from None
    _check_end(path, end)


def _check_end(path, end):
    """Raise UserError unless the rest of a tar, from the end of its last member on, is blocks of zeros."""
    with open(path, "rb") as file:
        file.seek(end)
        if len(piece := file.read(_PIECE)) < _BLOCK:
            raise UserError(f"{path} is cut short: it has no mark of its end at byte {end}; copy it again")
        while piece:
            if piece.strip(b"\0"):
                raise UserError(
                    f"{path} has something other than a member at byte {end}, where readers stop: it is"
                    " damaged, or another tar was appended; copy it again, or give both tars"
                )
            piece = file.read(_PIECE)


def _pair(key, members, data, fields):
    """Read and check one sample: a Pair. Raises _Fault."""
    (hr, hr_place), (lr, lr_place) = (_image(side, members, data, fields) for side in ("hr", "lr"))
    if hr.dtype != lr.dtype:
        raise _Fault(f"has an HR image of {hr.dtype} and an LR image of {lr.dtype}; both must have one type")
    scale = _scale_of(hr.shape, lr.shape)
    record, offset, size = {}, 0, 0
    if fields.reads_record:
        content, offset = _content(fields.record, members, data, LARGEST_RECORD)
        record, size = _parsed(fields.record, content), len(content)
    if fields.source_field is not None:
        _entry(record, fields.source_field)
    rock = _entry(record, fields.rock_field) if fields.rock is None else fields.rock
    if not is_rock_name(rock):
        raise _Fault(f"has the rock {rock!r} in its JSON; {ROCK_RULE}")
    return Pair(
        key,
        rock,
        hr_place,
        lr_place,
        offset,
        size,
        lr.shape,
        scale,
        hr.dtype.name,
        int(hr.min()),
        int(hr.max()),
        hashlib.blake2b(hr.tobytes() + repr(hr.shape).encode(), digest_size=16).digest(),
        look(hr, lr, scale),
    )


def _image(side, members, data, fields):
    """Return the pixels of the "hr" or "lr" image of a sample, and its Image."""
    name = getattr(fields, side).lower()
    content, offset = _content(name, members, data, LARGEST_FILE)
    try:
        image = read_member(name, content)
    except EncodingError as error:
        raise _Fault(f"has a {name} that cannot be used: {error}") from None
    place = Image(offset, len(content), pixels_offset(name, content, image), zlib.crc32(image), image.nbytes)
    return image, place


def _content(name, members, data, largest):
    """Return the bytes of a member of a sample, and their offset."""
    name = name.lower()
    if name not in members:
        raise _Fault(f"has no {name}; it has {', '.join(members)}. Name its fields with --hr and --lr")
    member = members[name]
    if not member.isreg() or member.issparse():
        kind = (
            KINDS[tarfile.GNUTYPE_SPARSE] if member.issparse() else KINDS.get(member.type, "a special file")
        )
        raise _Fault(f"has {name} as {kind.replace('the', 'a', 1)}; only plain members are read")
    if not 0 < member.size <= largest:
        raise _Fault(f"has a {name} of {member.size} bytes; 1 to {largest} are read")
    if member.offset_data + member.size > len(data):
        raise _Fault(f"has a {name} that ends behind the end of the file; copy the shard again")
    return data[member.offset_data : member.offset_data + member.size], member.offset_data


def _scale_of(hr, lr):
    for scale in SCALES:
        if hr == tuple(scale * size for size in lr):
            return scale
    sizes = " and LR of ".join("x".join(map(str, shape)) for shape in (hr, lr))
    raise _Fault(
        f"has HR of {sizes} pixels; HR must be {', '.join(map(str, SCALES))} times LR along every axis"
    )


def _parsed(name, content):
    try:
        record = load_json(content)
    except (ValueError, RecursionError) as error:
        raise _Fault(f"has a {name} that is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise _Fault(f"has a {name} that is no JSON object")
    return record


def _entry(record, name):
    try:
        return text_entry(record, name)
    except UserError as error:
        raise _Fault(str(error)) from None


def detect_fields(address, cache):
    """Return the names of the HR and the LR field of a shard's first sample: the only images hr.* and lr.*.

    Raises UserError where they are not so clear.
    """
    with _local(address, cache) as path:
        check_is_tar(path)
        _, members = next(samples(path), (None, {}))
    names = []
    for side in ("hr", "lr"):
        found = [name for name in members if name.startswith(f"{side}.") and suffix_of(name) in SUFFIXES]
        if len(found) != 1:
            listed = ", ".join(members) or "none"
            raise UserError(
                f"{address}: its samples have the fields {listed}; say which are the pair: --hr F --lr F"
            )
        names += found
    return tuple(names)


def index_rows(shards, ndim, encoding, keys, rocks):
    """Return the rows of the index of a split, from its Shards and the keys of its pairs in their order."""
    pairs = [(number, pair) for number, shard in enumerate(shards) for pair in shard.pairs]
    rows = np.zeros(len(pairs), index_dtype(ndim))
    numbers = {rock: number for number, rock in enumerate(rocks)}
    for row, key, (number, pair) in zip(rows, keys, pairs, strict=True):
        row["key"], row["rock"], row["shard"] = key.encode(), numbers[pair.rock], number
        row["lr_shape"] = pair.lr_shape
        for side, image in (("hr", pair.hr), ("lr", pair.lr)):
            mapped = encoding == "npy"
            row[f"{side}_offset"] = image.offset + (image.pixels_offset if mapped else 0)
            row[f"{side}_bytes"] = image.nbytes if mapped else image.bytes
            row[f"{side}_crc32"] = image.crc32
        row["record_offset"], row["record_bytes"] = pair.record_offset, pair.record_bytes
        row["darkest"], row["brightest"] = pair.darkest, pair.brightest
    return rows
