"""Applying a generator to images of any size: tile by tile, with the same result as all at once."""

import itertools
import os
from pathlib import Path

import numpy as np
import torch

from srgan_dist.data.image_files import (
    BROKEN_LINK,
    find_images,
    is_image,
    left_out,
    read_info,
    read_pages,
)
from srgan_dist.data.value_range import to_grey_levels, to_metric_range, to_network_range
from srgan_dist.data.write_images import check_writable, write_pages
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.device import is_out_of_memory, memory_of
from srgan_dist.utils.errors import UserError

SHOWN = 20  # faults that an error lists

TILE = 192  # LR pixels; a 16-block network then needs about 1.5 GB of activations at x4


def super_resolve(generator, lr, tile=TILE):
    """Super-resolve images of one size: lr [..., H, W] numpy uint8 or uint16 -> float32 tensor [..., s*H, s*W] in [0, 1] on
    the device.
    """
    scale = generator.config.scale
    sr = torch.empty(*lr.shape[:-2], lr.shape[-2] * scale, lr.shape[-1] * scale, device=_device_of(generator))
    for rows, columns in tiles_of(*lr.shape[-2:], tile):
        sr[..., _scaled(rows, scale), _scaled(columns, scale)] = super_resolve_window(
            generator, lr, rows, columns
        )
    return sr


@torch.inference_mode()
def super_resolve_window(generator, lr, rows, columns):
    """Super-resolve a window of images: lr [..., H, W] -> [..., s*h, s*w], as it is in the whole image; rows and columns are
    slices in LR pixels. The network sees it with as much around it as its pixels can depend on.
    """
    scale, margin = generator.config.scale, generator.tile_overlap
    first_row, first_column = max(rows.start - margin, 0), max(columns.start - margin, 0)
    seen = np.ascontiguousarray(lr[..., first_row : rows.stop + margin, first_column : columns.stop + margin])
    output = generator(
        to_network_range(torch.from_numpy(seen).to(_device_of(generator))).view(-1, 1, *seen.shape[-2:])
    ).squeeze(1)
    top, left = (rows.start - first_row) * scale, (columns.start - first_column) * scale
    height, width = (rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale
    return to_metric_range(output[:, top : top + height, left : left + width].float()).view(
        *lr.shape[:-2], height, width
    )


def tiles_of(height, width, tile):
    """Cut an image into tiles, row by row: [(rows, columns)], slices in pixels."""
    return [
        (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def super_resolve_pages(generator, pages, tile=TILE):
    """Yield every page super-resolved in its own type: [H, W] numpy uint8 or uint16 -> [s*H, s*W] of the same dtype.

    The network only ever sees a tile with its surroundings, so memory is bounded by some tiles and pages. On a CPU every
    thread has a tile of its own, of this page or of the next.
    """
    scale = generator.config.scale

    def compute(job):
        page, rows, columns = job
        return *job, to_grey_levels(
            super_resolve_window(generator, page, rows, columns).cpu().numpy(), page.dtype
        )

    jobs = ((page, *tile_of) for page in pages for tile_of in tiles_of(*page.shape, tile))
    for page, rows, columns, pixels in one_thread_each(compute, jobs, _device_of(generator)):
        if rows.start == columns.start == 0:
            sr = np.empty((page.shape[0] * scale, page.shape[1] * scale), page.dtype)
        sr[_scaled(rows, scale), _scaled(columns, scale)] = pixels
        if (rows.stop, columns.stop) == page.shape:
            yield sr


def _scaled(pixels, scale):
    return slice(pixels.start * scale, pixels.stop * scale)


def _device_of(generator):
    return next(generator.parameters()).device


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
        raise UserError(
            f"OUTPUT={target} lies in INPUT={source}, where the next run would read it as input;"
            " give a folder elsewhere"
        )
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


def super_resolve_files(generator, jobs, tile=TILE, progress=lambda info, pages: pages):
    """Super-resolve every page of every file, page by page; yields the jobs of `list_jobs` as they are done.

    progress(info, pages) wraps the pages of a file as tqdm does.
    """
    results = super_resolve_pages(generator, _pages_of(jobs), tile)
    for info, path in jobs:
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = itertools.islice(results, info.pages)
        try:
            write_pages(path, progress(info, pages), info.pages, _finer(info.tags, generator.config.scale))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{info.path}: {memory_of(_device_of(generator))} is too small for --tile {tile}; use a smaller --tile"
            ) from None
        yield info, path


def _pages_of(jobs):
    """Yield the pages of all files, one file after the other."""
    for info, _ in jobs:
        pages = 0
        for page in read_pages(info.path):
            yield page
            pages += 1
        if pages != info.pages:
            raise UserError(
                f"{info.path} has {pages} pages by now, and had {info.pages}: it was changed while it was read"
            )


def _finer(tags, scale):
    """Scale resolution tags: the pixels are `scale` times smaller, so a unit of length holds more of them."""
    if "resolution" not in tags:
        return tags
    return tags | {"resolution": tuple((pixels * scale, units) for pixels, units in tags["resolution"])}
