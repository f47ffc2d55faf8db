"""PNG files: header and pixels of one grey page of 8 or 16 bit."""

import contextlib
import os
import struct

import imagecodecs
import numpy as np

from srgan_dist.data.formats.raw import MOST_DEFLATED
from srgan_dist.data.volume import CENTIMETRE, ImageError, Slices, Volume

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of grey, RGB, palette, grey with alpha, RGB with alpha


def open_png(path):
    """Read the header of a PNG file; raises ImageError for all but 8 or 16 bit, and palettes of grey levels.

    RGB has to have equal channels, and alpha to be opaque, which shows when the pixels are read.
    """
    chunks = _chunks(path)
    if len(chunks.get(b"IHDR", b"")) != 13 or b"IDAT" not in chunks:
        raise ImageError(path, "is damaged or cut short before its pixels; copy or export it again")
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    if colour not in _CHANNELS:
        raise ImageError(path, f"is a PNG of type {colour}, which does not exist; copy or export it again")
    palette = np.frombuffer(chunks.get(b"PLTE", b""), np.uint8)
    if colour == 3 and (palette.size % 3 or len(np.unique(palette.reshape(-1, 3).T, axis=0)) != 1):
        raise ImageError(path, "has a palette of colours; rock images are grey. Save it as 8-bit grey")
    if depth not in (8, 16):
        raise ImageError(path, f"has {depth} bit per pixel; save it as 8 or 16 bit grey")
    if b"tRNS" in chunks:
        raise ImageError(path, "has a transparent colour; save it without transparency")
    if b"acTL" in chunks:
        raise ImageError(path, "is an animated PNG of several frames; save each frame as a PNG of its own")
    samples, size = height * width * _CHANNELS[colour], path.stat().st_size
    if samples * depth // 8 > MOST_DEFLATED * size:
        raise ImageError(
            path, f"is cut short: its {size} bytes cannot hold {height}x{width} pixels; copy it again"
        )
    tags = _tags(chunks.get(b"pHYs", b""))
    return Volume(path, (1, height, width), np.dtype(f"uint{depth}"), _voxels, tags=tags)


def _chunks(path):
    """Return {name: content} of the chunks of a PNG up to its pixels, whose own content is left empty."""
    chunks, size = {}, path.stat().st_size
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            raise ImageError(path, "is not a PNG file; copy or export it again")
        while b"IDAT" not in chunks and len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if length > size - file.tell():
                raise ImageError(path, "is damaged or cut short; copy or export it again")
            chunks[name] = file.read(length) if name != b"IDAT" else b""
            file.seek(4, os.SEEK_CUR)  # its checksum
    return chunks


def _tags(physical):
    """Return the resolution of a pHYs chunk, which counts pixels per metre, as TIFF tags."""
    if len(physical) != 9:
        return {}
    *pixels, unit = struct.unpack(">IIB", physical)
    if unit != 1 or not all(0 < count < 2**31 for count in pixels):
        return {}
    return {"resolution": tuple((count, 100) for count in pixels), "resolutionunit": CENTIMETRE}


def _voxels(volume):
    # Not Pillow: it reduces 16-bit RGB to 8 bit silently.
    return contextlib.nullcontext(
        Slices(volume, lambda number: imagecodecs.png_decode(volume.path.read_bytes()))
    )
