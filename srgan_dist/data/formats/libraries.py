"""Libraries of the extra `volumes`, and the checks that readers of chunked arrays share."""

import importlib
import math

from srgan_dist.data.volume import ImageError

MAX_CHUNK_BYTES = 2**28  # of a chunk when it is decompressed: far above the chunks that programs write

_SLAB_BYTES = 2**29  # of slices that are kept in memory while the slices of a volume are read in order


def library(name, path):
    """Import a library that reads `path`; raises ImageError with the way to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImageError(
            path,
            f'is read with the package {name}, which is not installed; pip install "srgan_dist[volumes]"',
        ) from None


def check_chunk(path, chunk, itemsize):
    """Raise ImageError for chunks that are too large to decompress."""
    if (nbytes := math.prod(chunk) * itemsize) > MAX_CHUNK_BYTES:
        raise ImageError(
            path,
            f"is stored in chunks of {'x'.join(map(str, chunk))} voxels, {nbytes:,} bytes each; save it in"
            f" chunks of at most {MAX_CHUNK_BYTES:,} bytes, e.g. of 64x64x64 voxels",
        )


def volume_shape(path, shape, name):
    """Return a shape of two or three axes as (slices, height, width); raises ImageError for others."""
    if len(shape) not in (2, 3):
        raise ImageError(path, f"{name} has {len(shape)} axes {shape}; save a volume as [slices, H, W]")
    if len(shape) == 3 and 1 <= shape[-1] <= 4:
        raise ImageError(
            path,
            f"{name} has shape {shape}, whose last axis looks like colour channels; save a volume as"
            " [slices, H, W]",
        )
    return (1, *map(int, shape))[-3:]


def only_one(path, found, kind):
    """Return the only name of those in {name: shape} that have three axes; raises ImageError for any other
    number, which lists what was found.
    """
    volumes = [name for name, shape in found.items() if len(shape) == 3]
    if len(volumes) == 1:
        return volumes[0]
    listed = [f"{name} {'x'.join(map(str, shape))}" for name, shape in found.items()]
    listed = ", ".join(listed[:9]) + (", ..." if len(listed) > 9 else "") or "none"
    raise ImageError(
        path,
        f"holds {len(volumes)} {kind} of numbers with three axes, where one is expected (found: {listed});"
        " save one volume to a file of its own",
    )


class Chunked:
    """Voxels of an array in chunks: they slice like an array [slices, height, width].

    array: slices like an array [..., slices, height, width], its first axes of size 1; depth: slices per
    chunk. The chunks of a whole slice are kept for the slices after it, instead of decoding them for each.
    """

    def __init__(self, array, depth):
        self.array, self.leading = array, (0,) * max(0, array.ndim - 3)
        self.shape = (1, *array.shape)[-3:]
        page = math.prod(self.shape[1:]) * array.dtype.itemsize
        self.depth = depth if page * depth <= _SLAB_BYTES else 1
        self.start, self.slab = None, None

    def __getitem__(self, window):
        window = tuple(slice(*own.indices(size)[:2]) for own, size in zip(window, self.shape))
        slices, rows, columns = window
        whole = (rows.stop - rows.start, columns.stop - columns.start) == self.shape[1:]
        if not whole or slices.stop - slices.start > 1 or self.depth == 1:
            return self._read(window)
        start = slices.start // self.depth * self.depth
        if start != self.start:
            self.slab = None  # not two in memory
            self.slab = self._read((slice(start, min(start + self.depth, self.shape[0])), rows, columns))
            self.start = start
        return self.slab[slices.start - start : slices.stop - start]

    def _read(self, window):
        if self.array.ndim == 2:
            return self.array[window[1:]][None]
        return self.array[(*self.leading, *window)]
