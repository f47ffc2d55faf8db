"""Synthetic micro-CT slices of sandstone, carbonate and coal, for a demo and tests that need no download.

A slice is built as its rock is: grains are packed and welded, ooids and shells are laid down and cemented,
beds of coal are cracked by cleats. A scanner then images the scene, with the blur and noise of real scans.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from srgan_dist.data.degradation import downsample, draw_kernel
from srgan_dist.datasets.synthetic.carbonate import draw_carbonate
from srgan_dist.datasets.synthetic.coal import draw_coal
from srgan_dist.datasets.synthetic.sandstone import draw_sandstone
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write

ROCKS = {"sandstone": draw_sandstone, "carbonate": draw_carbonate, "coal": draw_coal}


def synthesize(rock, seed, index, size=500):
    """Make slice number `index` of a rock: uint8 [size, size].

    A pure function: the same arguments give the same bytes on one machine, whatever was made before.
    """
    if rock not in ROCKS:
        raise UserError(f"rock={rock!r} is not known; use one of {', '.join(ROCKS)}")
    if size < 64:
        raise UserError(f"size={size} is too small to show grains; use at least 64 pixels")
    return ROCKS[rock](np.random.default_rng([seed, index, *rock.encode()]), size)


# Files in DeepRock-SR's layout

KINDS, SCALES = ("default", "unknown"), (2, 4)


def slice_files(rock, split, number):
    """Name the files of one slice, relative to the folder that holds DeepRockSR-2D.

    Returns the HR file and a table (kind, scale) -> LR file.
    """
    prefix = f"DeepRockSR-2D/{rock}2D/{rock}2D_{split}"
    pairs = [(kind, scale) for kind in KINDS for scale in SCALES]
    lr = {(kind, scale): f"{prefix}_LR_{kind}_X{scale}/{number:04d}x{scale}.png" for kind, scale in pairs}
    return f"{prefix}_HR/{number:04d}.png", lr


def write_slice(out, rock, split, number, seed, size):
    """Synthesize one slice and write its HR and LR images below the folder `out`; returns their bytes."""
    hr_file, lr_files = slice_files(rock, split, number)
    hr = synthesize(rock, seed, number, size)
    written = _write_rgb(Path(out, hr_file), hr)
    for (kind, scale), lr_file in lr_files.items():
        kernel = draw_kernel(kind, seed, f"{rock}_{number:04d}")
        written += _write_rgb(Path(out, lr_file), downsample(hr, scale, kernel))
    return written


def _write_rgb(path, image):
    """Write a grey image as PNG with three equal channels, as DeepRock-SR's are; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        rgb = Image.fromarray(image).convert("RGB")
        rgb.save(unfinished, "png", compress_level=1)  # noise hardly compresses
    return path.stat().st_size
