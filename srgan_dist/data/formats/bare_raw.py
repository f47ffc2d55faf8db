"""Raw voxels without a header, .raw and .vol: shape and type come from options or from the file's name."""

import math
import re
from dataclasses import dataclass

import numpy as np

from srgan_dist.data.formats.raw import raw_volume
from srgan_dist.data.volume import VOXEL_DTYPES, ImageError
from srgan_dist.utils.errors import UserError

_HEADERS = (".mhd", ".nhdr", ".vgi", ".vol.info", ".raw.info")  # that may lie beside the voxels
_BYTE_ORDERS = {"le": "little", "little": "little", "be": "big", "big": "big"}
_WORD = r"(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])"  # between underscores, dots, blanks or hyphens
_SHAPE = re.compile(_WORD.format(r"(\d{1,9})x(\d{1,9})x(\d{1,9})"), re.IGNORECASE)
_TYPE = re.compile(_WORD.format(r"(u?int|float)(8|16|32|64)|(8|16)-?bit"), re.IGNORECASE)
_ORDER = re.compile(_WORD.format(r"(le|be|little|big)(?:[-_]?endian)?"), re.IGNORECASE)


@dataclass(frozen=True)
class RawOptions:
    """How voxels without a header are stored; what is None has to be in the file's name."""

    shape: tuple | None = None  # (slices, height, width); x runs fastest, then y, then z
    dtype: str | None = None  # e.g. "uint16"
    byte_order: str | None = None  # "little" or "big"; of no meaning for one byte per voxel
    offset: int = 0  # bytes before the first voxel

    def __post_init__(self):
        if self.shape is not None and not (len(self.shape) == 3 and min(self.shape) > 0):
            raise UserError(
                f"raw: shape={self.shape} has to be three positive numbers: slices, height, width"
            )
        if self.dtype is not None and self.dtype not in map(str, VOXEL_DTYPES):
            raise UserError(
                f"raw: dtype={self.dtype} is not read; give one of {', '.join(map(str, VOXEL_DTYPES))}"
            )
        if self.byte_order not in (None, "little", "big"):
            raise UserError(f"raw: byte_order={self.byte_order} has to be little or big")
        if self.offset < 0:
            raise UserError(f"raw: offset={self.offset} has to be 0 or more bytes")


def parse_raw(text):
    """Return what the option --raw says: RawOptions of SHAPE[,TYPE[,ORDER[,OFFSET]]], e.g.
    400x500x500,uint16,little,0; SHAPE is slices x height x width.
    """
    shape, dtype, order, offset, *rest = [*text.split(","), *[""] * 4][: max(4, text.count(",") + 1)]
    try:
        if rest:
            raise ValueError
        sizes = tuple(int(size) for size in shape.split("x")) if shape else None
        return RawOptions(sizes, dtype or None, order or None, int(offset or 0))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"raw={text} has to be SHAPE,TYPE,ORDER,OFFSET, e.g. 400x500x500,uint16,little,0, where"
            " SHAPE is slices x height x width; the last ones may be left out"
        ) from None


def open_raw(path, raw=None):
    """Return the Volume of a file without header; raises ImageError unless options or name say all of it.

    raw: RawOptions. A name such as rock_500x400x300_uint16_le.raw has the WIDTHxHEIGHTxDEPTH of the volume,
    its type (uint8 ... float64, or 8bit and 16bit, which are unsigned) and, from two bytes on, its byte order
    (le or be). The voxels have to fill the file to its last byte. Nothing is guessed: ImageJ, for one, writes
    either byte order under the same name.
    """
    raw, said = raw or RawOptions(), _said_by_name(path)
    shape, dtype, order = (getattr(raw, name) or said.get(name) for name in ("shape", "dtype", "byte_order"))
    if missing := _missing(shape, dtype, order):
        raise ImageError(path, f"{missing}{_fitting(path, shape, raw.offset)}{_ways_out(path)}")
    stored = np.dtype(dtype).newbyteorder({"little": "<", "big": ">"}.get(order, "="))
    return raw_volume(path, path, tuple(shape), stored, raw.offset)


def _said_by_name(path):
    """Return what the name of a file says; what it says in two ways is not said."""
    said = {}
    if len(shapes := set(_SHAPE.findall(path.name))) == 1:
        said["shape"] = tuple(map(int, shapes.pop()))[::-1]
    types = {kind.lower() + bits or f"uint{plain}" for kind, bits, plain in _TYPE.findall(path.name)}
    if len(types) == 1 and (dtype := types.pop()) in map(str, VOXEL_DTYPES):
        said["dtype"] = dtype
    if len(orders := {_BYTE_ORDERS[order.lower()] for order in _ORDER.findall(path.name)}) == 1:
        said["byte_order"] = orders.pop()
    return said


def _missing(shape, dtype, order):
    if not shape:
        return "is raw, and neither its name nor an option says the shape"
    if not dtype:
        return "is raw, and neither its name nor an option says the type of its voxels"
    if np.dtype(dtype).itemsize > 1 and not order:
        return f"is raw, and neither its name nor an option says the byte order of its {dtype} voxels"
    return None


def _fitting(path, shape, offset):
    """Return the types that fill the file with voxels of this shape, as part of a message."""
    if not shape:
        return ""
    count, size = math.prod(shape), path.stat().st_size - offset
    names = [str(dtype) for dtype in VOXEL_DTYPES if count * dtype.itemsize == size]
    voxels = f"{'x'.join(map(str, shape))} voxels"
    return f"; with {size} bytes its {voxels} can be {', '.join(names) or 'of no type that is read'}"


def _ways_out(path):
    stem = path.with_suffix("")
    beside = [header for suffix in _HEADERS if (header := stem.with_name(stem.name + suffix)).exists()]
    if beside:
        return f". {beside[0].name} beside it may describe it: read that instead"
    name = f"{stem.name}_WIDTHxHEIGHTxDEPTH_uint16_le{path.suffix}"
    return f". Rename it to e.g. {name}, or give the options (--raw)"
