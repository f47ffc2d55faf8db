"""Raw voxels behind a header, in the same file or in one beside it: x runs fastest, then y, then z.

They are mapped into memory, so a block touches only its own bytes. The number of voxels that a header claims
is compared with the size of the file before anything is allocated.
"""

import contextlib
import math
import zlib

import numpy as np

from srgan_dist.data.volume import ImageError, Volume

MOST_DEFLATED = 1032  # bytes that one byte of Deflate can stand for, https://zlib.net/zlib_tech.html
_CHUNK = 2**20


def raw_volume(path, file, shape, stored, offset=0, voxel_sizes_um=None, spare=0):
    """Return the Volume of raw voxels in `file`, which the header in `path` describes.

    shape: (slices, height, width); stored: dtype with its byte order; offset: of the first voxel in bytes, -1
    where the voxels end the file; spare: bytes that may follow. Raises ImageError for any other size.
    """
    size, nbytes = file.stat().st_size, math.prod(shape) * stored.itemsize
    offset = size - nbytes if offset == -1 else offset
    voxels = f"{'x'.join(map(str, shape))} voxels of {stored.newbyteorder('=')}"
    if offset < 0 or offset + nbytes > size:
        raise ImageError(
            path,
            f"{file.name} is cut short: its {voxels} need {max(offset, 0) + nbytes} bytes, the file has"
            f" {size}; copy or export it again, or correct its size and type where they are wrong",
        )
    if offset + nbytes + spare < size:
        raise ImageError(
            path,
            f"{file.name} has {size} bytes, its {voxels} end at byte {offset + nbytes}; the size or the type"
            " is not that of the file. Correct them, or export it again",
        )
    dtype = stored.newbyteorder("=")
    return Volume(path, shape, dtype, _mapped, voxel_sizes_um, layout=(file, stored, offset))


def _mapped(volume):
    file, stored, offset = volume.layout
    return contextlib.nullcontext(np.memmap(file, stored, "r", offset, volume.shape))


def deflated_volume(path, file, shape, stored, offset=0, voxel_sizes_um=None):
    """Return the Volume of voxels that are compressed by zlib or gzip from byte `offset` on to the end.

    Such a file has no block reads: each opening decompresses all of it into memory.
    """
    compressed, nbytes = file.stat().st_size - offset, math.prod(shape) * stored.itemsize
    if nbytes > MOST_DEFLATED * max(compressed, 0):
        raise ImageError(
            path,
            f"{file.name} is cut short: {max(compressed, 0)} bytes cannot hold {nbytes} bytes of voxels,"
            " however compressed; copy or export it again",
        )
    dtype = stored.newbyteorder("=")
    return Volume(path, shape, dtype, _inflated, voxel_sizes_um, layout=(file, stored, offset))


@contextlib.contextmanager
def _inflated(volume):
    file, stored, offset = volume.layout
    voxels = np.empty(math.prod(volume.shape) * stored.itemsize, np.uint8)
    filled, engine = 0, zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip
    with open(file, "rb") as source:
        source.seek(offset)
        while not engine.eof and filled <= voxels.size:
            data = engine.unconsumed_tail or source.read(_CHUNK)
            part = engine.decompress(data, _CHUNK)[: voxels.size + 1 - filled]
            if not data and not part:
                break
            voxels[filled : filled + len(part)] = np.frombuffer(part, np.uint8)[: voxels.size - filled]
            filled += len(part)
        spare = engine.unused_data or source.read(1)
    if filled != voxels.size or not engine.eof or spare:
        problem = "more" if filled > voxels.size or spare else "fewer"
        raise ImageError(
            volume.path,
            f"{file.name} holds {problem} than the {voxels.size} bytes of its"
            f" {'x'.join(map(str, volume.shape))} voxels of {volume.dtype}; copy or export it again",
        )
    yield voxels.view(stored).reshape(volume.shape)
