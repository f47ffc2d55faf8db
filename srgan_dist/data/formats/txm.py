"""Zeiss XRM files (.txm): reconstructed slices, each a stream of an OLE file."""

import contextlib

import numpy as np

from srgan_dist.data.formats.header import sizes_um
from srgan_dist.data.formats.libraries import library
from srgan_dist.data.volume import ImageError, Slices, Volume

_TYPES = {3: "<u1", 5: "<u2", 10: "<f4"}  # DataType
_MOST_SLICES = 2**16


def open_txm(path):
    """Read the header of a TXM file; raises ImageError for slices that are missing or cut short."""
    with _opened(path) as ole:
        height, width, slices = (
            _value(path, ole, name, "<i4") for name in ("ImageHeight", "ImageWidth", "NoOfImages")
        )
        kind = _value(path, ole, "DataType", "<i4")
        if kind not in _TYPES:
            raise ImageError(path, f"has DataType {kind}; only 3, 5 and 10 (uint8, uint16, float32) are read")
        if min(height, width, slices) < 1 or slices > _MOST_SLICES:
            raise ImageError(path, f"claims {slices} slices of {height}x{width} pixels; export it again")
        stored = np.dtype(_TYPES[kind])
        for number in range(slices):
            stream, nbytes = _stream(number), height * width * stored.itemsize
            if not ole.exists(stream) or ole.get_size(stream) != nbytes:
                found = f"{ole.get_size(stream)} bytes" if ole.exists(stream) else "missing"
                raise ImageError(
                    path,
                    f"slice {number} ({stream}) is {found}, {height}x{width} pixels are {nbytes} bytes;"
                    " copy or export it again",
                )
        size = _value(path, ole, "PixelSize", "<f4") if ole.exists("ImageInfo/PixelSize") else None
    dtype = stored.newbyteorder("=")
    return Volume(path, (slices, height, width), dtype, _voxels, sizes_um((size,) * 3), layout=stored)


def open_txrm(path):
    """Raise ImageError: a TXRM file holds the projections of a scan, before the reconstruction."""
    raise ImageError(
        path, "holds the projections of a scan, not slices of a rock; reconstruct it and give the .txm"
    )


@contextlib.contextmanager
def _opened(path):
    olefile = library("olefile", path)
    with olefile.OleFileIO(path, raise_defects=olefile.DEFECT_INCORRECT) as ole:
        yield ole


def _value(path, ole, name, dtype):
    stream = f"ImageInfo/{name}"
    if not ole.exists(stream) or ole.get_size(stream) < 4:
        raise ImageError(path, f"has no {stream}; export it again as a reconstructed volume")
    return np.frombuffer(ole.openstream(stream).read(4), dtype)[0].item()


def _stream(number):
    """Name the stream of a slice; a folder holds 100 of them."""
    return f"ImageData{number // 100 + 1}/Image{number + 1}"


@contextlib.contextmanager
def _voxels(volume):
    with _opened(volume.path) as ole:

        def decoded(number):
            data = ole.openstream(_stream(number)).read()
            return np.frombuffer(data, volume.layout).reshape(volume.shape[1:])

        yield Slices(volume, decoded)
