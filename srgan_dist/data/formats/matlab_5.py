"""The arrays of MATLAB files of version 5 to 7.2.

The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. Not
scipy.io: it allocates what a file claims, before it looks at the file's size.
"""

import contextlib
import math
import struct
import zlib
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from srgan_dist.data.formats.raw import MOST_DEFLATED, raw_volume
from srgan_dist.data.volume import ImageError, Volume

_MATRIX, _COMPRESSED = 14, 15
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_COMPLEX_OR_LOGICAL = 0x0A00  # flags of an array
_HEADER = 2**13  # bytes that hold the dimensions and the name of an array


class Array(NamedTuple):
    """An array of real numbers and where it is stored."""

    shape: tuple  # (z, y, x) of MATLAB's (x, y, z)
    dtype: np.dtype  # of its class; small integers of any class are stored as such
    stored: np.dtype
    offset: int  # of its values, in bytes from the beginning of the file or of the decompressed element
    compressed: tuple | None  # (offset, bytes) of a compressed element


def read_arrays(path):
    """Return {name: Array} of all arrays of real numbers in a file; others are left out."""
    arrays, size = {}, path.stat().st_size
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        if order is None:
            raise ImageError(path, "has no header of a MATLAB file; copy or export it again")
        at = 128
        while at + 8 <= size:
            kind, nbytes = struct.unpack(f"{order}II", file.read(8))
            compressed = (at + 8, nbytes) if kind == _COMPRESSED else None
            if at + 8 + nbytes > size:
                raise ImageError(
                    path,
                    f"is cut short: it ends at byte {at + 8 + nbytes}, the file has {size}; copy it again",
                )
            file.seek(at + 8 * bool(compressed))
            data = file.read(min(nbytes + 8, _HEADER))
            if compressed:
                data = zlib.decompressobj().decompress(data, _HEADER)
            if found := _read_matrix(data, order, 0 if compressed else at, compressed):
                arrays[found[0]] = found[1]
            at += 8 + nbytes
            file.seek(at)
    return arrays


def _read_matrix(data, order, start, compressed):
    """Return (name, Array) of an element that begins at byte `start`, None unless it has real numbers."""
    if struct.unpack_from(f"{order}I", data)[0] != _MATRIX:
        return None
    at, parts = 8, []
    for _ in range(4):  # flags, dimensions, name, values
        kind, nbytes, begin = _tag(data, order, at)
        parts.append((kind, nbytes, begin))
        at = begin + nbytes + -(begin + nbytes) % 8
    flags, dimensions, name = (data[begin : begin + nbytes] for _, nbytes, begin in parts[:3])
    (flags,) = struct.unpack_from(f"{order}I", flags)
    kind, nbytes, begin = parts[3]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX_OR_LOGICAL or kind not in _STORED:
        return None
    shape = tuple(np.frombuffer(dimensions, f"{order}i4").tolist())[::-1]
    stored = np.dtype(order + _STORED[kind])
    if min(shape) < 0 or math.prod(shape) * stored.itemsize != nbytes:
        raise ValueError(f"{nbytes} bytes are not {'x'.join(map(str, shape))} values of {stored}")
    return name.decode("ascii"), Array(
        shape, np.dtype(_CLASSES[flags & 0xFF]), stored, start + begin, compressed
    )


def _tag(data, order, at):
    """Return type, bytes and begin of the content of the element at byte `at`."""
    kind, nbytes = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:  # of at most 4 bytes, beside their number
        return kind & 0xFFFF, kind >> 16, at + 4
    return kind, nbytes, at + 8


def array_volume(path, array, shape):
    """Return the Volume of an Array: mapped into memory, or decompressed as a whole by each opening."""
    if array.compressed is None:
        volume = raw_volume(path, path, shape, array.stored, array.offset, spare=path.stat().st_size)
        return replace(volume, dtype=array.dtype)
    nbytes = math.prod(shape) * array.stored.itemsize
    if nbytes > MOST_DEFLATED * array.compressed[1]:
        raise ImageError(
            path, f"is damaged: {array.compressed[1]} bytes cannot hold {nbytes}, however compressed; copy it"
        )
    return Volume(path, shape, array.dtype, _inflated, layout=array)


@contextlib.contextmanager
def _inflated(volume):
    array, (start, nbytes) = volume.layout, volume.layout.compressed
    count = math.prod(volume.shape)
    with open(volume.path, "rb") as file:
        file.seek(start)
        data = zlib.decompressobj().decompress(
            file.read(nbytes), array.offset + count * array.stored.itemsize
        )
    yield np.frombuffer(data, array.stored, count, array.offset).reshape(volume.shape)
