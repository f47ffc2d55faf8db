"""NPY files: one array [H, W] or [slices, H, W] of uint8 or uint16."""

import contextlib

import numpy as np

from srgan_dist.data.volume import ImageError, Volume


def _mapped(path):
    with open(path, "rb") as file:
        head, size = file.read(12), path.stat().st_size
    # Numpy allocates what a header of version 2 or 3 says of its own length before it is read.
    length = int.from_bytes(head[8:12], "little") if head[6:7] > b"\1" else 0
    try:
        if length > size:
            raise ValueError("the header is longer than the file")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # numpy's words range from tokens of the header to advice to load it unsafely
        raise ImageError(
            path,
            "is cut short, damaged, or holds something other than numbers; save it again with numpy.save as"
            " an array of uint8 or uint16",
        ) from error


def open_npy(path):
    """Read the header of an NPY file; raises ImageError for all but one array [H, W] or [slices, H, W]."""
    volume = _mapped(path)
    if volume.ndim not in (2, 3):
        raise ImageError(
            path, f"has shape {volume.shape}; use [H, W] for a slice or [slices, H, W] for a volume"
        )
    if volume.ndim == 3 and volume.shape[-1] == 1:
        raise ImageError(
            path,
            f"has shape {volume.shape}: an image [H, W, 1] with an axis for its one channel, or a volume of"
            " one voxel along x; save the image as array[..., 0], and the volume with another axis last,"
            " numpy.moveaxis(array, -1, 0)",
        )
    if volume.ndim == 3 and 2 <= volume.shape[-1] <= 4:
        raise ImageError(
            path,
            f"has shape {volume.shape}, whose last axis looks like colour channels;"
            " save a slice as [H, W] and a volume as [slices, H, W]",
        )
    if path.stat().st_size != volume.offset + volume.nbytes:
        raise ImageError(path, "holds more than one array; save each to a file of its own")
    return Volume(path, (1, *volume.shape)[-3:], volume.dtype.newbyteorder("="), _voxels)


def _voxels(volume):
    return contextlib.nullcontext(_mapped(volume.path).reshape(volume.shape))
