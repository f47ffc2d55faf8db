"""Images in tars of other people: members in formats that files of images have, told by their suffix.

They are read as files of that format are (`image_files.py`): one grey channel of 8 or 16 bits, RGB only with
equal channels. Formats whose header may name other files are left out.
"""

import contextlib
import io
import math
import tempfile
from pathlib import Path

import numpy as np

from srgan_dist.data.formats.npy import read_npy_header
from srgan_dist.data.image_files import read_header
from srgan_dist.data.volume import ALLOWED_DTYPES, ImageError
from srgan_dist.storage.encoding import LARGEST_IMAGE, EncodingError
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import raise_out_of_memory

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".mat")

_HDF5 = b"\x89HDF\r\n\x1a\n"


def suffix_of(field):
    """Return the suffix of a field of a WebDataset: ".png" of "hr.png" and of "png"."""
    return "." + field.lower().rpartition(".")[2]


def read_member(field, data, shape=None):
    """Decode the bytes of an image member: [H, W], or [D, H, W] of a volume, uint8 or uint16.

    shape: the only one that is decoded; None: any. Raises EncodingError, whose message has no subject.
    """
    suffix = suffix_of(field)
    if suffix not in SUFFIXES:
        raise EncodingError(f"is of a format that is not read; use one of {', '.join(SUFFIXES)}")
    if suffix == ".mat" and data[512:520] == _HDF5:
        raise EncodingError("is a MATLAB 7.3 file, which may point to other files; save it with -v7")
    with contextlib.ExitStack() as opened:
        try:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="srgan_dist_"))
            path = Path(folder) / f"image{suffix}"
            path.write_bytes(data)
        except OSError as error:
            raise UserError(
                f"TMPDIR={tempfile.gettempdir()} does not hold an image of {len(data):,} bytes while it is"
                f" decoded ({error}); free more, or set TMPDIR to another folder"
            ) from None
        try:
            return _read(path, shape)
        except ImageError as error:
            raise_out_of_memory(error.__cause__, f"the image of a field {field}")
            problem = str(error).removeprefix(f"{path}: ")
            raise EncodingError(problem.replace(str(path), f"the image{suffix}")) from None


def _read(path, shape):
    volume = read_header(path)
    if volume.dtype not in ALLOWED_DTYPES:
        raise ImageError(
            path, f"has {volume.dtype} pixels; a set in place has uint8 or uint16, others have to be built"
        )
    found = volume.shape[1:] if volume.slices == 1 else volume.shape
    if shape is not None and found != tuple(shape):
        raise ImageError(path, f"has {_by(found)} pixels, not {_by(shape)}")
    if (size := math.prod(found) * volume.dtype.itemsize) > LARGEST_IMAGE:
        raise ImageError(path, f"claims {size} bytes of pixels, more than the limit of {LARGEST_IMAGE}")
    return np.ascontiguousarray(volume.read((0, 0, 0), volume.shape).reshape(found))


def decode_member(field, data, shape, dtype):
    """Decode as `read_member` does, an image of this shape and dtype only."""
    image = read_member(field, data, shape)
    if image.dtype != dtype:
        raise EncodingError(f"has {image.dtype} pixels, not {np.dtype(dtype)}")
    return image


def pixels_offset(field, data, image):
    """Return the byte at which the pixels of an image member begin if they are there as an array in memory
    is, so that they can be mapped: only in NPY files; else None. image: the member, decoded.
    """
    if suffix_of(field) != ".npy":
        return None
    header = read_npy_header(io.BytesIO(data))
    stored = header.dtype
    mapped = (
        not header.fortran_order
        and stored == image.dtype.newbyteorder("<")
        and not header.offset % stored.itemsize
    )
    return header.offset if mapped else None


def _by(shape):
    return "x".join(map(str, shape))
