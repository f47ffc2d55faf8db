"""A volume in a file of any format: its header, its voxels by blocks, and the error for one that cannot be
used. An image is a volume of one slice.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import UnusableFile
from srgan_dist.utils.memory import is_out_of_memory

ALLOWED_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))  # read as they are
VOXEL_DTYPES = tuple(  # read with a window
    np.dtype(name) for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
)

INCH, CENTIMETRE = 2, 3  # units of TIFF's resolution; 1 is none

BROKEN_LINK = "is a broken link; restore its target, or delete it"


class ImageError(UserError):
    """An image file that cannot be used; the message starts with its path."""

    def __init__(self, path, problem):
        super().__init__(f"{path}: {problem}")
        self.path = path


@dataclass(frozen=True)
class Volume:
    """The header of a file, read before any voxel is decoded, and the way to its voxels; can be pickled."""

    path: Path
    shape: tuple  # (slices, height, width)
    dtype: np.dtype  # in the byte order of this machine
    opened: (
        Callable  # opened(volume): context of what slices like an array [slices, height, width(, channels)]
    )
    voxel_sizes_um: tuple | None = None  # (z, y, x); None, or None for an axis, where the file does not say
    tags: dict = field(default_factory=dict)  # resolution and description to be carried over, see write_pages
    layout: Any = None  # what else `opened` has to know
    notes: tuple = ()  # sentences for the user

    @property
    def slices(self):
        return self.shape[0]

    @property
    def height(self):
        return self.shape[1]

    @property
    def width(self):
        return self.shape[2]

    @property
    def voxel_size_um(self):
        """The size of a pixel of a slice, None where it is unknown or not the same along both axes."""
        _, along_y, along_x = self.voxel_sizes_um or (None, None, None)
        known = along_x and along_y and math.isclose(along_x, along_y, rel_tol=1e-3)
        return along_x if known else None

    def holds(self, corner, shape):
        """Return whether a block of at least one voxel is within the volume; arguments as of `read`."""
        blocks = zip(corner, shape, self.shape, strict=True)
        return all(0 <= start and 1 <= size <= limit - start for start, size, limit in blocks)

    def read(self, corner, shape):
        """Read a block: [d, h, w] of `dtype`; only the slices that it touches are decoded.

        corner: of its first voxel, shape: (d, h, w), both in voxels along (slice, row, column). Raises
        ImageError for a block that exceeds the volume.
        """
        ends = tuple(start + size for start, size in zip(corner, shape, strict=True))
        if not self.holds(corner, shape):
            raise ImageError(
                self.path,
                f"has {_by(self.shape)} voxels, which do not contain the block of {_by(shape)}"
                f" at {tuple(corner)}",
            )
        with failures_named(self.path), self.opened(self) as voxels:
            window = tuple(slice(*ends) for ends in zip(corner, ends, strict=True))
            return one_channel(self.path, voxels[window]).astype(self.dtype, copy=False)

    def pages(self):
        """Yield the slices in order, each [H, W], one in memory at a time."""
        with failures_named(self.path), self.opened(self) as voxels:
            for number in range(self.slices):
                page = one_channel(self.path, voxels[number : number + 1, : self.height, : self.width])
                yield page[0].astype(self.dtype, copy=False)

    def windowed(self, window, dtype):
        """Return this volume with its values mapped to grey levels by a Window as they are read.

        dtype: uint8 or uint16. Reading NaN raises ImageError.
        """
        return replace(self, dtype=np.dtype(dtype), opened=_windowed, layout=(self, window))


@contextlib.contextmanager
def _windowed(volume):
    source, window = volume.layout
    with source.opened(source) as voxels:
        yield _Windowed(volume, voxels, window)


class _Windowed:
    """Voxels that a window maps to grey levels; they slice like an array [slices, height, width]."""

    def __init__(self, volume, voxels, window):
        self.volume, self.voxels, self.window = volume, voxels, window

    def __getitem__(self, block):
        path, values = self.volume.path, self.voxels[block]
        grey = np.empty(values.shape[:3], self.volume.dtype)
        for number in range(len(values)):  # one slice of float64 in memory at a time
            page = one_channel(path, values[number : number + 1])
            try:
                grey[number] = self.window.to_grey_levels(page[0], grey.dtype)
            except UserError as error:
                raise ImageError(path, str(error)) from None
        return grey


class Slices:
    """Voxels of a format that is decoded slice by slice: they slice like an array [slices, height, width].

    decode(number) returns one slice, [H, W] or [H, W, channels].
    """

    def __init__(self, volume, decode):
        self.volume, self.decode = volume, decode

    def __getitem__(self, window):
        slices, rows, columns = window
        numbers = range(slices.start, slices.stop)
        return np.stack([self._slice(number)[rows, columns].copy() for number in numbers])  # drops the rest

    def _slice(self, number):
        page = self.decode(number)
        if page.shape[:2] != self.volume.shape[1:]:
            raise ImageError(
                self.volume.path,
                f"slice {number} has {page.shape} pixels, its header says {_by(self.volume.shape[1:])}",
            )
        return page


def _by(shape):
    return "x".join(map(str, shape))


def one_channel(path, voxels):
    """Return voxels [d, h, w], of colours [d, h, w, 3] one channel; raises ImageError where they differ.

    The second of two channels, and the fourth of four, is alpha (of integers), which has to be opaque.
    """
    if voxels.ndim == 3:
        return np.ascontiguousarray(voxels)
    if voxels.shape[-1] in (2, 4):
        least, opaque = voxels[..., -1].min(), np.iinfo(voxels.dtype).max
        if least < opaque:
            raise ImageError(
                path,
                f"is transparent in places (alpha of {least}, opaque is {opaque}); save it as grey without"
                " alpha",
            )
        voxels = voxels[..., :-1]
    first, *others = np.moveaxis(voxels, -1, 0)
    if not all(np.array_equal(first, other) for other in others):
        raise ImageError(
            path,
            "its three colour channels differ; rock images are grey. Save the channel that holds the scan"
            " as a grey image",
        )
    return np.ascontiguousarray(first)


@contextlib.contextmanager
def failures_named(path):
    """Turn any exception of a decoder into an ImageError that names the file."""
    try:
        yield
    except UnusableFile as error:
        raise ImageError(path, str(error).removeprefix(f"{path} ")) from None
    except (UserError, GeneratorExit):
        raise
    except FileNotFoundError:
        raise ImageError(path, BROKEN_LINK if path.is_symlink() else "does not exist") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise ImageError(path, "does not fit into memory; cut it into smaller images") from error
        if isinstance(error, OSError):
            raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
        # A message of the decoder is about the file; that of e.g. a TypeError is about its code.
        words = f" ({error})" if isinstance(error, (ValueError, RuntimeError)) and str(error) else ""
        raise ImageError(
            path,
            f"cannot be read: it is damaged or stored in a way that is not supported{words};"
            " copy it again, or export it as a plain image without compression",
        ) from error
