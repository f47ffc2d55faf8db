"""NPY files: one array [H, W] or [slices, H, W] of uint8 or uint16."""

import contextlib
import math
import re
from typing import NamedTuple

import numpy as np

from srgan_dist.data.volume import ImageError, Volume

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the header's length, by major version
_LONGEST = 10_000  # bytes of a header, as numpy allows

_BLANKS = " \t\n\r\f\v"
_ENTRY = re.compile(
    r"""\s* (?P<mark>["']) (?P<key>descr|fortran_order|shape) (?P=mark) \s*:\s*
    (?: (?P<quote>["'])
        (?P<dtype>[<>|=]?(?:[biufc]\d+|[?bBhHiIlLqQefdFD])|bool|(?:u?int|float|complex)\d+) (?P=quote)
      | (?P<bool>True|False)
      | \( \s* (?P<sizes>(?:(?:\d+L?\s*,\s*)+(?:\d+L?\s*)?)?) \) )
    \s* (?:,|$)""",
    re.VERBOSE | re.ASCII,
)


class NpyHeader(NamedTuple):
    """What an NPY file says of its one array."""

    shape: tuple
    dtype: np.dtype
    fortran_order: bool
    offset: int  # byte at which the array begins


def read_npy_header(file):
    """Read the header at the start of a binary file of one array of numbers.

    Raises ValueError for any other, and TypeError for a type that numpy lacks.
    Format: numpy.lib.format, versions 1 to 3. Numpy's own reader parses the header with `ast`, which two
    threads of Python 3.11.0 to 3.11.7 cannot do at a time (python/cpython#106905): intact files seem damaged.
    """
    start = file.read(8)
    if start[:6] != _MAGIC or start[7:] != b"\0" or start[6] not in _LENGTH_BYTES:
        raise ValueError("not an NPY file")
    length_bytes = _LENGTH_BYTES[start[6]]
    length = int.from_bytes(file.read(length_bytes), "little")
    header = file.read(length) if length <= _LONGEST else b""
    if not header or len(header) < length:
        raise ValueError(f"a header of {length} bytes")
    text = header.decode("utf-8" if start[6] == 3 else "latin-1").strip(_BLANKS)
    inside, entries, position = text[1:-1].rstrip(_BLANKS), {}, 0
    while position < len(inside) and (entry := _ENTRY.match(inside, position)):
        entries[entry["key"]], position = entry, entry.end()
    if text[:1] + text[-1:] != "{}" or position < len(inside) or len(entries) != 3:
        raise ValueError(f"the header {text[:200]!r}")
    descr, order, shape = (
        entries[key][group]
        for key, group in (("descr", "dtype"), ("fortran_order", "bool"), ("shape", "sizes"))
    )
    if None in (descr, order, shape):
        raise ValueError(f"the header {text[:200]!r}")
    sizes = tuple(int(size) for size in re.findall("[0-9]+", shape))
    return NpyHeader(sizes, np.dtype(descr), order == "True", 8 + length_bytes + length)


def _mapped(path):
    try:
        with open(path, "rb") as file:
            header = read_npy_header(file)
        itemsize = header.dtype.itemsize
        if path.stat().st_size < header.offset + math.prod(header.shape) * itemsize:
            raise ValueError("the file is shorter than its array")
        if math.prod(max(size, 1) for size in header.shape) * itemsize >= 2**63:  # also of an empty one
            raise ValueError("numpy has no such shape")
        order = "F" if header.fortran_order else "C"
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
    except (ValueError, TypeError) as error:
        raise ImageError(
            path,
            "is cut short, damaged, or holds something other than numbers; save it again with numpy.save as"
            " an array of uint8 or uint16",
        ) from error


def open_npy(path):
    """Read the header of an NPY file; raises ImageError for all but one array [H, W] or [slices, H, W]."""
    volume = _mapped(path)
    if volume.ndim not in (2, 3):
        raise ImageError(
            path, f"has shape {volume.shape}; use [H, W] for a slice or [slices, H, W] for a volume"
        )
    if volume.ndim == 3 and volume.shape[-1] == 1:
        raise ImageError(
            path,
            f"has shape {volume.shape}: an image [H, W, 1] with an axis for its one channel, or a volume of"
            " one voxel along x; save the image as array[..., 0], and the volume with another axis last,"
            " numpy.moveaxis(array, -1, 0)",
        )
    if volume.ndim == 3 and 2 <= volume.shape[-1] <= 4:
        raise ImageError(
            path,
            f"has shape {volume.shape}, whose last axis looks like colour channels;"
            " save a slice as [H, W] and a volume as [slices, H, W]",
        )
    if path.stat().st_size != volume.offset + volume.nbytes:
        raise ImageError(path, "holds more than one array; save each to a file of its own")
    return Volume(path, (1, *volume.shape)[-3:], volume.dtype.newbyteorder("="), _voxels)


def _voxels(volume):
    return contextlib.nullcontext(_mapped(volume.path).reshape(volume.shape))
