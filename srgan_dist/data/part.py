"""A part of a volume as a volume of its own: a slab, or the overlap of two scans."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from srgan_dist.data.volume import ImageError


@dataclass(frozen=True)
class _Window:
    """Voxels that slice like an array, seen from another corner."""

    voxels: Any
    corner: tuple

    def __getitem__(self, window):
        shifted = zip(window, self.corner, strict=True)
        return self.voxels[
            tuple(slice((part.start or 0) + start, part.stop + start) for part, start in shifted)
        ]


def part_of(volume, corner, shape):
    """Return the block of `shape` at `corner`, both (slice, row, column), as a Volume; no voxel is read.

    Raises ImageError where the block exceeds the volume.
    """
    if tuple(shape) == volume.shape and not any(corner):
        return volume
    if not volume.holds(corner, shape):
        raise ImageError(
            volume.path, f"has {volume.shape} voxels, which hold no {tuple(shape)} at {tuple(corner)}"
        )
    return replace(volume, shape=tuple(shape), opened=_opened, layout=(volume, tuple(corner)))


@contextlib.contextmanager
def _opened(part):
    volume, corner = part.layout
    with volume.opened(volume) as voxels:
        yield _Window(voxels, corner)
