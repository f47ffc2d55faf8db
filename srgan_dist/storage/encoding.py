"""How an image is stored in a set: uncompressed pixels (npy), or a PNG file (png), for slow links."""

import io
import math
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, PngImagePlugin, features

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import raise_out_of_memory

ENCODINGS = ("npy", "png")
LARGEST_RATIO = 1032  # of zlib: a PNG of n bytes never holds more than 1032 n bytes of pixels
LARGEST_IMAGE = 2**31  # bytes of pixels of an image file in other people's tars: above any slice or block
LARGEST_FILE = LARGEST_IMAGE + 2**20  # bytes of such a file: none is larger than its pixels and a header

_LEVEL = 4  # of zlib: the same size of rock slices as with 6, the default, in two thirds of the time
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class EncodingError(UserError):
    """Bytes that are not the expected image; the message says why and has no subject."""


def encoder(encoding):
    """Name the encoder and the settings that determine the bytes of an encoded image, besides its pixels."""
    if encoding == "npy":
        return "none"
    return f"Pillow {PIL.__version__}, zlib {features.version('zlib')}, level {_LEVEL}"


def image_shape(row, side, scale):
    """Return the shape of the "hr" or "lr" image of one row of the index, a tuple of ints."""
    factor = scale if side == "hr" else 1
    return tuple([factor * size for size in row["lr_shape"].tolist()])


def encode(encoding, image):
    """Return the bytes of an image, uint8 or uint16: little-endian pixels, or a PNG file of [H, W]."""
    if encoding == "npy":
        return image.tobytes()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=_LEVEL)
    return file.getvalue()


def decode(encoding, data, shape, dtype):
    """Turn the bytes of one image back into an array of this shape and dtype, uint8 or uint16; raises
    EncodingError.

    A PNG is decoded only when its header has the expected shape, so a forged one cannot claim memory. Whether
    the pixels are correct only their crc32 in the index shows: Pillow leaves rows black that an intact file
    does not hold.
    """
    if encoding == "npy":
        return _decode_npy(data, shape, np.dtype(dtype))
    _check_header(data, shape, np.dtype(dtype))
    _check_chunks(data)
    try:
        # Image.open refuses very large slices
        image = np.asarray(PngImagePlugin.PngImageFile(io.BytesIO(data)))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise_out_of_memory(error, f"a PNG of {'x'.join(map(str, shape))} pixels")
        raise EncodingError(f"is a damaged PNG ({str(error) or type(error).__name__})") from None
    if image.shape != tuple(shape) or image.dtype != dtype:
        raise EncodingError(f"is a PNG of {image.shape} {image.dtype}, not {tuple(shape)} {np.dtype(dtype)}")
    return image


def _decode_npy(data, shape, dtype):
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise EncodingError(
            f"has {len(data)} bytes of pixels, not those of {'x'.join(map(str, shape))} {dtype}"
        )
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def _check_header(data, shape, dtype):
    if not data.startswith(_SIGNATURE) or data[8:16] != b"\0\0\0\rIHDR" or len(data) < 29:
        raise EncodingError("is no PNG file")
    width, height, depth, colour, *rest = struct.unpack_from(">IIBBBBB", data, 16)
    if (height, width) != tuple(shape):
        raise EncodingError(f"is a PNG of {height}x{width} pixels, not {'x'.join(map(str, shape))}")
    if (depth, colour) != (8 * dtype.itemsize, 0) or any(rest):
        raise EncodingError(
            f"is a PNG of {depth} bit {_COLOURS.get(colour, colour)}{' (interlaced)' * (rest[2] == 1)},"
            f" not of {8 * dtype.itemsize} bit grey"
        )


def _check_chunks(data):
    """Check that a PNG has a header, pixels and an end, nothing else, and that every checksum holds."""
    position, names = len(_SIGNATURE), []
    while position < len(data):
        length, name = (
            struct.unpack_from(">I4s", data, position) if position + 12 <= len(data) else (len(data), b"")
        )
        end = position + 12 + length
        if end > len(data):
            raise EncodingError("is a PNG that was cut short")
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise EncodingError("is a damaged PNG (the checksum of a part differs)")
        names.append(name)
        position = end
    if names[0] != b"IHDR" or names[-1] != b"IEND" or len(names) < 3 or set(names[1:-1]) != {b"IDAT"}:
        raise EncodingError("is a PNG that was cut short or has more in it than pixels")
