"""A sample: one HR/LR pair, and its members in a tar.

In the tar a sample is three consecutive members, KEY.hr.npy, KEY.json and KEY.lr.npy (.png where the images
are PNG files), as any WebDataset reader expects them. `members` is the one description of this format:
packing places and writes them by it, the index is checked against it, and shards are verified by it.
"""

import io
import json
import re
import tarfile
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srgan_dist.storage.encoding import image_shape
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.json_text import load_json

BLOCK = 512  # of a tar file
RECORD = 20 * BLOCK  # a tar file is padded to whole records

# With which webdataset.TarWriter makes the headers of `tar_header`
TAR_OPTIONS = {"user": "", "group": "", "mode": 0o644, "mtime": 0}

PARTS = "hr", "record", "lr"  # of a sample, in the order of the tar; the names of their columns in the index

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")


class Member(NamedTuple):
    """A member of a tar: a regular file."""

    part: str  # "hr", "record" or "lr"
    name: str
    head: bytes  # the NPY header, before the byte that the index column `part`_offset points to; else empty
    size: int  # of its content in bytes, with the head


def members(row, encoding, dtype, scale):
    """Return the Members of one row of the index in the order of the tar; its byte counts must be known."""
    key, found = row["key"].decode(), []
    for part in PARTS:
        is_npy = part != "record" and encoding == "npy"
        head = npy_header(image_shape(row, part, scale), dtype) if is_npy else b""
        name = f"{key}.json" if part == "record" else f"{key}.{part}.{encoding}"
        found.append(Member(part, name, head, len(head) + int(row[f"{part}_bytes"])))
    return found


def next_content(end):
    """Return the offset of the content of the member after one that ends at `end`."""
    return (end + (BLOCK - 1)) // BLOCK * BLOCK + BLOCK


def padded(size, multiple):
    """Round `size` bytes up to a multiple."""
    return -(-size // multiple) * multiple


def tar_header(name, size):
    """Return the 512 header bytes of a regular USTAR member, free of time, owner and host."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def npy_header(shape, dtype):
    """Return the bytes before the pixels of an NPY file (version 1.0) that holds an array of this shape."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": description, "fortran_order": False, "shape": tuple(shape)}
    )
    return buffer.getvalue()


def encode_record(record):
    """Return the JSON member of a sample as bytes, the same for the same content."""
    return json.dumps(record, sort_keys=True).encode() + b"\n"


_Pixel = Annotated[int, Field(ge=0, lt=2**63)]
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Record(BaseModel):
    """The entries of a JSON member that scores, figures and reports read; there may be others."""

    model_config = ConfigDict(extra="allow", strict=True)

    rock: str
    source: str | None = None
    page: _Pixel | None = None
    top: _Pixel | None = None
    left: _Pixel | None = None
    corner: list[_Pixel] | None = None
    voxel_size_um: _Length | None = None
    voxel_sizes_um: Annotated[list[_Length | None], Field(min_length=3, max_length=3)] | None = None


def text_entry(record, name):
    """Return an entry of the record of other people as text; raises UserError, whose message has no
    subject.
    """
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(
            f"has no text or whole number {name!r} in its JSON; it has {', '.join(map(repr, record))}"
        )
    if not (text := str(value)).strip() or not text.isprintable() or len(text) > 200:
        raise UserError(f"has {name!r} {text[:200]!r} in its JSON; it must be 1 to 200 printable characters")
    return text


def parse_record(content):
    """Return the JSON member of a sample as a dictionary; raises UserError, whose message has no subject."""
    try:
        record = load_json(content)
        _Record.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its top level"
        raise UserError(f"is damaged at {where}: {fault['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})") from None
    return record


def corner_of(record, ndim):
    """Return the first pixel of an image in its source file, (page, row, column) or (z, y, x), or None where
    the record does not say.
    """
    corner = record.get("corner") if ndim == 3 else [record.get(name) for name in ("page", "top", "left")]
    return tuple(corner) if corner and len(corner) == 3 and None not in corner else None


def key_problem(key):
    """Return why a key is not valid, or None: it must be a file name for any tar and WebDataset reader."""
    if _KEY.fullmatch(key):
        return None
    return f"key {key!r} must be 1 to 90 of the characters A-Z a-z 0-9 _ -"
