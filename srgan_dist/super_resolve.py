"""Applying a generator to images of any size: tile by tile, with the same result as all at once."""

import os
from pathlib import Path

import numpy as np
import torch

from srgan_dist.data.images import (
    BROKEN_LINK, check_writable, find_images, is_image, left_out, read_info, read_pages, write_pages,
)
from srgan_dist.data.values import to_grey, to_signed, to_unit
from srgan_dist.errors import UserError

SHOWN = 20  # faults that an error lists

TILE = 192  # LR pixels; a 16-block network then needs about 1.5 GB of activations at x4


def super_resolve(generator, lr, tile=TILE):
    """Super-resolve one image: lr [H, W] numpy uint8 or uint16 -> float32 tensor [s*H, s*W] in [0, 1] on the device."""
    scale = generator.config.scale
    device = next(generator.parameters()).device
    sr = torch.empty(lr.shape[0] * scale, lr.shape[1] * scale, device=device)
    for rows, columns, pixels in _tiles(generator, lr, tile):
        sr[rows, columns] = pixels
    return sr


def super_resolve_grey(generator, lr, tile=TILE):
    """Super-resolve one image and keep its type: lr [H, W] uint8 or uint16 -> [s*H, s*W] numpy of the same dtype.

    The network only ever sees a tile with its surroundings, so memory is bounded by the tile and the two images.
    """
    scale = generator.config.scale
    sr = np.empty((lr.shape[0] * scale, lr.shape[1] * scale), lr.dtype)
    for rows, columns, pixels in _tiles(generator, lr, tile):
        sr[rows, columns] = to_grey(pixels.cpu().numpy(), lr.dtype)
    return sr


@torch.inference_mode()
def _tiles(generator, lr, tile):
    """Yield (rows, columns, pixels) of the SR image; tiles overlap by what an output pixel can depend on."""
    scale, margin = generator.config.scale, generator.receptive_radius
    device = next(generator.parameters()).device
    height, width = lr.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            first_row, first_column = max(top - margin, 0), max(left - margin, 0)
            window = np.ascontiguousarray(lr[first_row : bottom + margin, first_column : right + margin])
            output = generator(to_signed(torch.from_numpy(window).to(device))[None, None])[0, 0]
            row, column = (top - first_row) * scale, (left - first_column) * scale
            rows = slice(top * scale, bottom * scale)
            columns = slice(left * scale, right * scale)
            inner = output[row : row + rows.stop - rows.start, column : column + columns.stop - columns.start]
            yield rows, columns, to_unit(inner.float())


def list_jobs(source, target):
    """Pair every image of `source` (a file or a folder) with the file to write at or below `target`: (jobs, notes).

    notes name the files that are left out because they are no images. Raises UserError with all faults before
    anything is computed: for what cannot be read, for a target that exists, and for a format that cannot hold the
    result.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise UserError(f"INPUT={source} does not exist")
    if source.is_dir():
        pairs, faults, notes = _pairs_of_folder(source, target)
    else:
        pairs, faults, notes = [(source, target / source.name if target.is_dir() else target)], [], []
    jobs = [_job(path, output, faults) for path, output in pairs]
    if faults:
        raise UserError(_told(faults))
    return jobs, notes


def _pairs_of_folder(source, target):
    """Return [(image, output)], faults and notes of a folder."""
    if target.exists() and not target.is_dir() or is_image(target) and not target.exists():
        raise UserError(f"OUTPUT={target} names a file, but INPUT={source} is a folder; give a folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"OUTPUT={target} lies in INPUT={source}, where the next run would read it as input;"
                        " give a folder elsewhere")
    images, others = find_images(source)
    faults = [f"{path}: {BROKEN_LINK}" for path in others if not path.exists()]
    if not images and not faults:
        raise UserError(f"INPUT={source} holds no image that is read here (PNG, TIFF, NPY)")
    notes = left_out(source, [str(path.relative_to(source)) for path in others])
    return [(path, target / path.relative_to(source)) for path in images], faults, notes


def _job(path, output, faults):
    """Return (header, output); add to `faults` what is wrong with the two."""
    try:
        info = read_info(path)
        check_writable(output, info.pages, info.tags)
        if os.path.lexists(output):
            raise UserError(f"OUTPUT={output} exists; give another name or delete it")
        return info, output
    except UserError as error:
        faults.append(str(error))
        return None


def _told(faults):
    if len(faults) == 1:
        return faults[0]
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "\n  ".join([f"{len(faults)} faults found, nothing was written:", *faults[:SHOWN], *more])


def super_resolve_file(generator, info, path, tile=TILE, progress=iter):
    """Super-resolve every page of a file into `path`, page by page; progress wraps the pages as tqdm does."""
    scale = generator.config.scale
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = (super_resolve_grey(generator, page, tile) for page in progress(read_pages(info.path)))
    try:
        write_pages(path, pages, info.pages, _finer(info.tags, scale))
    except torch.OutOfMemoryError:
        raise UserError(f"{info.path}: the GPU is out of memory at --tile {tile}; use a smaller --tile") from None


def _finer(tags, scale):
    """Scale resolution tags: the pixels are `scale` times smaller, so a unit of length holds more of them."""
    if "resolution" not in tags:
        return tags
    return tags | {"resolution": tuple((pixels * scale, units) for pixels, units in tags["resolution"])}
