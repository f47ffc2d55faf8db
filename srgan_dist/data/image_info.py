"""The header of an image file, its pixel types, and the error for a file that cannot be used."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from srgan_dist.utils.errors import UserError

ALLOWED_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

INCH, CENTIMETRE = 2, 3  # units of TIFF's resolution; 1 is none


class ImageError(UserError):
    """An image file that cannot be used; the message starts with its path."""

    def __init__(self, path, problem):
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True)
class ImageInfo:
    """The header of an image file, read before any pixel is decoded."""

    path: Path
    shape: tuple  # (pages, height, width); a page is a slice of a volume
    dtype: np.dtype
    voxel_size_um: float | None = None  # only where the file names a physical unit
    tags: dict = field(default_factory=dict)  # resolution and description to be carried over, see write_pages

    @property
    def pages(self):
        return self.shape[0]

    @property
    def height(self):
        return self.shape[1]

    @property
    def width(self):
        return self.shape[2]

    @property
    def max_value(self):
        return np.iinfo(self.dtype).max
