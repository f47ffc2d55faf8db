"""BMP files, as Bruker's NRecon writes slices: 8-bit grey, or palettes and RGB whose channels are equal."""

import contextlib
import struct

import numpy as np

from srgan_dist.data.volume import ImageError, Volume


def open_bmp(path):
    """Read the header of a BMP file; raises ImageError for all but uncompressed 8-bit grey and RGB.

    Rows are mapped into memory, last row first, each padded to four bytes; bytes may follow the last one.
    """
    with open(path, "rb") as file:
        head = file.read(54)
        if len(head) < 54 or head[:2] != b"BM" or (length := struct.unpack_from("<I", head, 14)[0]) < 40:
            raise ImageError(path, "is cut short, or no BMP of Windows; save it again as 8-bit grey")
        begin = struct.unpack_from("<I", head, 10)[0]
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", head, 18)
        colours = struct.unpack_from("<I", head, 46)[0]
        if bits not in (8, 24) or compression:
            raise ImageError(
                path, f"has {bits} bit per pixel, compression {compression}; save it as 8-bit grey"
            )
        file.seek(14 + length)
        palette = _grey_palette(path, file, colours) if bits == 8 else None
    if width < 1 or height == 0:
        raise ImageError(path, f"has {height}x{width} pixels; copy or export it again")
    stride = -(-width * bits // 32) * 4  # bytes of a row
    end, size = begin + abs(height) * stride, path.stat().st_size
    if begin < 14 + length or end > size:
        raise ImageError(
            path, f"is cut short: its pixels end at byte {end}, the file has {size}; copy or export it again"
        )
    layout = (begin, stride, height < 0, palette)
    return Volume(path, (1, abs(height), width), np.dtype(np.uint8), _voxels, layout=layout)


def _grey_palette(path, file, colours):
    """Return the grey level of each value of a pixel, uint8 [number of colours]."""
    if colours > 256:
        raise ImageError(path, f"claims {colours} colours of 8-bit pixels; copy or export it again")
    palette = np.frombuffer(file.read(4 * (colours or 256)), np.uint8)
    if palette.size != 4 * (colours or 256):
        raise ImageError(path, "is cut short within its palette; copy or export it again")
    channels = palette.reshape(-1, 4)[:, :3]
    if (channels != channels[:, :1]).any():
        raise ImageError(path, "has a palette of colours; rock images are grey. Save it as 8-bit grey")
    return channels[:, 0]


def _voxels(volume):
    begin, stride, top_down, palette = volume.layout
    rows = np.memmap(volume.path, np.uint8, "r", begin, (volume.height, stride))
    return contextlib.nullcontext(_Pixels(volume.path, rows[:: 1 if top_down else -1], palette))


class _Pixels:
    """Pixels that slice like an array [1, height, width] of grey levels, or [1, height, width, 3] of RGB."""

    def __init__(self, path, rows, palette):
        self.path, self.rows, self.palette = path, rows, palette

    def __getitem__(self, window):
        _, lines, columns = window
        if self.palette is None:  # sliced before it is copied into RGB
            pixels = self.rows[lines, 3 * (columns.start or 0) : 3 * columns.stop]
            return pixels.reshape(1, len(pixels), -1, 3)
        indices = self.rows[None, lines, columns]
        if indices.max() >= len(self.palette):
            raise ImageError(self.path, f"has pixels beyond its palette of {len(self.palette)} colours")
        return self.palette[indices]
