"""Writing volumes block by block, in any order: NPY, TIFF, MetaImage (.mhd with its .raw) and OME-Zarr.

The whole file is made first, without its voxels (a sparse file); every block is then written to its place, so
several processes can write different blocks, and an interrupted one can continue.
"""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import tifffile

from srgan_dist.data.formats.libraries import library
from srgan_dist.data.formats.metaimage import MILLIMETRE_UM, TYPES
from srgan_dist.data.formats.npy import read_npy_header
from srgan_dist.data.volume import CENTIMETRE, ImageError
from srgan_dist.data.write_images import ome_metadata
from srgan_dist.utils.files import sync

CHUNK = 64  # voxels of a Zarr chunk along each axis, at most
LEVEL = "0"  # of an OME-Zarr image, the finest

_CLASSIC_BYTES = 4e9  # above, TIFF needs the offsets of a BigTIFF


def create(path, shape, dtype, voxel_sizes_um=None, block=CHUNK):
    """Make the file or folder of a volume and return its writer, see `open_created`.

    shape: (slices, height, width). dtype: one of `VOXEL_DTYPES`. voxel_sizes_um: (z, y, x), None, or None for
    an axis, where unknown; NPY cannot hold them, MetaImage only all three. block: side of the blocks, in
    voxels; a Zarr chunk is a part of one, so that no two blocks share a chunk. Raises ImageError for another
    suffix than those of `FORMATS`.
    """
    path, dtype = Path(path), np.dtype(dtype)
    check_format(path)
    make, _ = FORMATS[path.suffix.lower()]
    make(path, tuple(shape), dtype, voxel_sizes_um or (None,) * 3, block)
    return open_created(path, shape, dtype)


def open_created(path, shape, dtype):
    """Return the writer of a volume that `create` has made: write(corner, block), flush(), close()."""
    path = Path(path)
    _, opened = FORMATS[path.suffix.lower()]
    return opened(path, tuple(shape), np.dtype(dtype))


def is_format(path):
    """Return whether the suffix of `path`, in any case, is that of a format of volumes that is written."""
    return Path(path).suffix.lower() in FORMATS


def check_format(path, tags=()):
    """Raise ImageError unless blocks of a volume with these tags can be written to the format of `path`."""
    if not is_format(path):
        problem = f"format {path.suffix!r} is not written block by block"
        raise ImageError(path, f"{problem}; give a name that ends in one of {', '.join(FORMATS)}")
    if path.suffix.lower() == ".zarr":
        library("zarr", path)
    if "orientation" in tags:
        raise ImageError(
            path,
            f"its source says that its slices are to be turned (Orientation {tags['orientation']}), which is"
            " not kept block by block; save the source with Orientation 1",
        )


def parts_of(path):
    """Return the files that a volume at `path` consists of, that which names the others last."""
    return [path.with_suffix(".raw"), path] if path.suffix.lower() == ".mhd" else [path]


def remove_partial_chunks(path):
    """Remove what a killed process has left of a chunk of Zarr that it was writing."""
    for file in Path(path).rglob("*.partial"):
        file.unlink()


class _FlatWriter:
    """Writes blocks of voxels that lie in a file as in memory, the last axis fastest.

    Not by a memory map: on a full disk that kills the process, and its pages count as memory of it.
    """

    def __init__(self, file, offset, shape, dtype):
        self.offset, self.shape, self.dtype = offset, shape, dtype
        self.descriptor = os.open(file, os.O_RDWR)

    def write(self, corner, block):
        """Write a block [d, h, w] at its corner, the place of its first voxel."""
        block = np.ascontiguousarray(block, self.dtype)
        z, y, x = corner
        _, height, width = self.shape
        for i, j in itertools.product(*map(range, block.shape[:2])):
            place = ((z + i) * height + y + j) * width + x
            _write_at(self.descriptor, block[i, j].view(np.uint8), self.offset + place * self.dtype.itemsize)

    def flush(self):
        """Wait until all blocks are on the disk."""
        os.fsync(self.descriptor)

    def missing_bytes(self):
        """Return how many bytes of the disk the voxels still need."""
        file = os.fstat(self.descriptor)
        return max(0, file.st_size - 512 * file.st_blocks)

    def close(self):
        os.close(self.descriptor)


def _write_at(descriptor, row, place):
    while len(row):  # a nearly full disk takes a part, and the rest raises
        written = os.pwrite(descriptor, row, place)
        row, place = row[written:], place + written


class _ZarrWriter:
    """Writes blocks to an OME-Zarr image; blocks are made of whole chunks, but at the volume's end."""

    def __init__(self, path, shape, dtype):
        zarr = library("zarr", path)
        self.folder = path / LEVEL
        with zarr.config.set({"array.write_empty_chunks": True}):  # our reader counts the chunks
            self.array = zarr.open_array(self.folder, mode="r+")
        self.written = set()

    def write(self, corner, block):
        """Write a block [d, h, w] at its corner, the place of its first voxel."""
        window = tuple(slice(start, start + size) for start, size in zip(corner, block.shape, strict=True))
        self.array[window] = block
        sides = [
            range(side.start // chunk, -(-side.stop // chunk))
            for side, chunk in zip(window, self.array.chunks, strict=True)
        ]
        self.written |= set(itertools.product(*sides))

    def flush(self):
        """Wait until all blocks are on the disk."""
        for chunk in self.written:
            sync(self.folder.joinpath("c", *map(str, chunk)))
        self.written = set()

    def missing_bytes(self):
        """Return how many bytes of the disk the voxels still need at most: if none could be compressed."""
        size = math.prod(self.array.chunks) * self.array.dtype.itemsize
        bound, block = size + size // 256 + 64, os.statvfs(self.folder).f_frsize  # as ZSTD_COMPRESSBOUND
        each = -(-bound // block) * block
        there = sum(len(files) for *_, files in os.walk(self.folder / "c"))  # and at most a few .partial
        return (self.array.nchunks - there) * each

    def close(self):
        """There is nothing to close."""


def _make_npy(path, shape, dtype, sizes, block):
    np.lib.format.open_memmap(path, "w+", dtype, shape)


def _open_npy(path, shape, dtype):
    with open(path, "rb") as file:
        return _FlatWriter(path, read_npy_header(file).offset, shape, dtype)


def _make_tiff(path, shape, dtype, sizes, block):
    """OME-XML gives the sizes along all axes; resolution tags give those of the pixels to other programs."""
    _, along_y, along_x = sizes
    resolution = {}
    if along_x and along_y:
        resolution = {"resolution": (1e4 / along_x, 1e4 / along_y), "resolutionunit": CENTIMETRE}
    tifffile.imwrite(
        path,
        shape=shape,
        dtype=dtype,
        ome=True,
        bigtiff=math.prod(shape) * dtype.itemsize > _CLASSIC_BYTES,
        photometric="minisblack",
        metadata=ome_metadata(path.name, shape, dtype, sizes),
        **resolution,
    )


def _open_tiff(path, shape, dtype):
    with tifffile.TiffFile(path) as tiff:
        return _FlatWriter(path, tiff.pages[0].dataoffsets[0], shape, dtype.newbyteorder(tiff.byteorder))


def _make_metaimage(path, shape, dtype, sizes, block):
    voxels, _ = parts_of(path)
    (element,) = [name for name, code in TYPES.items() if np.dtype(code) == dtype]
    spacing = " ".join(f"{size / MILLIMETRE_UM:.10g}" for size in reversed(sizes)) if all(sizes) else None
    path.write_text(
        "ObjectType = Image\nNDims = 3\n"
        f"DimSize = {' '.join(map(str, reversed(shape)))}\n"
        f"{f'ElementSpacing = {spacing}' + chr(10) if spacing else ''}"
        f"ElementType = {element}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"ElementDataFile = {voxels.name}\n"
    )
    with open(voxels, "wb") as file:
        file.truncate(math.prod(shape) * dtype.itemsize)


def _open_metaimage(path, shape, dtype):
    return _FlatWriter(parts_of(path)[0], 0, shape, dtype.newbyteorder("<"))


def _make_zarr(path, shape, dtype, sizes, block):
    """OME-Zarr 0.5, https://ngff.openmicroscopy.org/0.5"""
    axes = [
        {"name": axis, "type": "space", **({"unit": "micrometer"} if size else {})}
        for axis, size in zip("zyx", sizes, strict=True)
    ]
    scale = {"type": "scale", "scale": [size or 1.0 for size in sizes]}
    level = {"path": LEVEL, "coordinateTransformations": [scale]}
    image = {"version": "0.5", "multiscales": [{"name": path.stem, "axes": axes, "datasets": [level]}]}
    zarr = library("zarr", path)
    group = zarr.create_group(path, attributes={"ome": image}, zarr_format=3)
    side = max(side for side in range(1, CHUNK + 1) if block % side == 0)
    chunks = tuple(min(side, length) for length in shape)
    group.create_array(LEVEL, shape=shape, dtype=dtype, chunks=chunks, dimension_names=["z", "y", "x"])


def _open_zarr(path, shape, dtype):
    return _ZarrWriter(path, shape, dtype)


# suffix in lower case -> (makes the file, opens its writer)
FORMATS = {
    ".npy": (_make_npy, _open_npy),
    ".tif": (_make_tiff, _open_tiff),
    ".tiff": (_make_tiff, _open_tiff),
    ".mhd": (_make_metaimage, _open_metaimage),
    ".zarr": (_make_zarr, _open_zarr),
}
