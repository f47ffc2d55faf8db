"""Synthetic micro-CT volumes of sandstone, carbonate and coal, for 3-D demos and tests without a download.

A solid rock is built as the slices of `datasets/synthetic` are; a scanner images it with the point spread,
noise, fringes and rings of real scans, alike in slices of all three directions.
"""

from pathlib import Path

import numpy as np
import tifffile

from srgan_dist.datasets.synthetic.volumes.carbonate import draw_carbonate
from srgan_dist.datasets.synthetic.volumes.coal import draw_coal
from srgan_dist.datasets.synthetic.volumes.sandstone import draw_sandstone
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write

ROCKS = {"sandstone": draw_sandstone, "carbonate": draw_carbonate, "coal": draw_coal}
VOXEL_SIZE_UM = 3.0  # with it, grains are as large as those of a fine sandstone


def synthesize_volume(rock, seed, index, size=128):
    """Make volume number `index` of a rock: uint8 [size, size, size], (z, y, x).

    A pure function: the same arguments give the same bytes on one machine, whatever was made before.
    """
    if rock not in ROCKS:
        raise UserError(f"rock={rock!r} is not known; use one of {', '.join(ROCKS)}")
    if size < 32:
        raise UserError(f"size={size} is too small to show grains; use at least 32 voxels")
    return ROCKS[rock](np.random.default_rng([seed, index, 3, *rock.encode()]), size)


def volume_files(rock, split, number):
    """Name the HR file of a volume, relative to the folder of the set, and its LR files: none."""
    return f"{split}/{rock}/{number:04d}.tif", {}


def write_volume(out, rock, split, number, seed, size):
    """Synthesize one volume and write it below the folder `out` as an ImageJ stack; returns its bytes."""
    path = Path(out, volume_files(rock, split, number)[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = synthesize_volume(rock, seed, number, size)
    with atomic_write(path) as unfinished:
        tifffile.imwrite(
            unfinished,
            volume,
            imagej=True,
            resolution=(1 / VOXEL_SIZE_UM, 1 / VOXEL_SIZE_UM),
            metadata={"unit": "um", "spacing": VOXEL_SIZE_UM},
        )
    return path.stat().st_size
