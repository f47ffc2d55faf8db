"""Applying a generator to images and volumes of any size, tile by tile, as if it saw each in one piece."""

import itertools
import numbers
import os
import re
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
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError

LISTED = 20  # faults that an error lists

# ndim -> LR pixels of a tile along each axis; in 2-D a 16-block network at x4 needs about 1.5 GB for it
TILES = {2: 192, 3: 32}


def super_resolve(generator, lr, tile=None):
    """Super-resolve images of one shape: lr [..., *shape] numpy uint8 or uint16 -> float32 tensor [...,
    *(s*shape)] in [0, 1] on the device; shape has as many axes as the generator has dimensions.

    tile: LR pixels of a tile along each axis; None takes that of TILES.
    """
    scale, ndim = generator.config.scale, generator.config.ndim
    shape = lr.shape[-ndim:]
    sr = torch.empty(*lr.shape[:-ndim], *(scale * length for length in shape), device=_device_of(generator))
    for window in tiles_of(shape, _tile_or_default(tile, generator)):
        sr[..., *scaled(window, scale)] = super_resolve_window(generator, lr, window)
    return sr


@torch.inference_mode()
def super_resolve_window(generator, lr, window):
    """Super-resolve a window of images: lr [..., *shape] -> [..., *(s * window's shape)], with the values
    that it has in the whole image. window: a slice in LR pixels per axis.

    The network reads `generator.tile_overlap` LR pixels beyond the window on each side, as far as the image
    goes.
    """
    scale, overlap, ndim = generator.config.scale, generator.tile_overlap, generator.config.ndim
    starts = [max(side.start - overlap, 0) for side in window]
    wide = tuple(slice(start, side.stop + overlap) for start, side in zip(starts, window, strict=True))
    # PyTorch warns of arrays that are read-only, e.g. memory maps
    pixels = np.require(lr[..., *wide], requirements=["C", "W"])
    network_input = to_network_range(torch.from_numpy(pixels).to(_device_of(generator)))
    output = generator(network_input.view(-1, 1, *pixels.shape[-ndim:])).squeeze(1)
    inner = [slice(side.start - start, side.stop - start) for start, side in zip(starts, window, strict=True)]
    unit = to_metric_range(output[:, *scaled(inner, scale)].float())
    return unit.view(*lr.shape[:-ndim], *unit.shape[1:])


def tiles_of(shape, tile):
    """Cut an image into tiles, the last axis fastest: yields a tuple of slices in pixels, one per axis."""
    sides = [
        [slice(start, min(start + tile, length)) for start in range(0, length, tile)] for length in shape
    ]
    return itertools.product(*sides)


def scaled(window, scale):
    """Return the window in HR pixels of a window in LR pixels."""
    return tuple(slice(side.start * scale, side.stop * scale) for side in window)


def super_resolve_pages(generator, images, tile=None):
    """Super-resolve images in their own type and yield the HR pages, each [s*H, s*W] numpy uint8 or uint16:
    one per [H, W] image of a 2-D generator, s*D per [D, H, W] volume of a 3-D one.

    Pages are assembled tile by tile, those of a volume in slabs of one tile's depth, so memory is bounded by
    some tiles and one slab. On a CPU every thread has a tile of its own, of this slab or of the next.
    """
    scale = generator.config.scale
    tile = _tile_or_default(tile, generator)

    def compute(job):
        image, window = job
        return *job, to_grey_levels(super_resolve_window(generator, image, window).cpu().numpy(), image.dtype)

    jobs = ((image, window) for image in images for window in tiles_of(image.shape, tile))
    for image, window, pixels in one_thread_each(compute, jobs, _device_of(generator)):
        *_, height, width = image.shape
        *_, rows, columns = window
        if rows.start == columns.start == 0:
            slab = np.empty((*pixels.shape[:-2], height * scale, width * scale), image.dtype)
        slab[..., *scaled((rows, columns), scale)] = pixels
        if (rows.stop, columns.stop) == (height, width):
            yield from slab.reshape(-1, *slab.shape[-2:])


def depth_scale(generator):
    """Return the number of HR pages per LR page: 1 for a 2-D generator, its scale for a 3-D one."""
    return generator.config.scale if generator.config.ndim == 3 else 1


def _tile_or_default(tile, generator):
    return TILES[generator.config.ndim] if tile is None else tile


def check_tile(tile):
    """Raise UserError unless `tile` is None or a positive whole number."""
    if tile is not None and not (isinstance(tile, numbers.Integral) and tile >= 1):
        raise UserError(
            f"tile={tile!r} must be a whole number, 1 or more; leave it out for a tile that fits most GPUs"
        )


def _device_of(generator):
    return next(generator.parameters()).device


def list_jobs(source, target, pages_per_page=1):
    """Pair every image of `source` (a file or a folder) with the file to write at or below `target`: (jobs,
    notes).

    A job is (ImageInfo, output path); notes name the files that are left out because they are no images.
    pages_per_page: `depth_scale` of the generator. Raises UserError that lists all faults before anything is
    computed: images that cannot be read, outputs that exist, and formats that cannot hold the result.
    """
    for name, path in (("INPUT", source), ("OUTPUT", target)):
        if is_url(path) or str(path) == "":
            raise UserError(
                f"{name}={path} is {'a URL' if path else 'empty'}; give the path of a file or folder"
            )
    source, target = Path(source), Path(target)
    if not source.exists():
        raise UserError(f"INPUT={source} does not exist")
    if source.is_dir():
        pairs, faults, notes = _pairs_of_folder(source, target)
    else:
        pairs, faults, notes = [(source, target / source.name if target.is_dir() else target)], [], []
    jobs = [_job(path, output, pages_per_page, faults) for path, output in pairs]
    if faults:
        raise UserError(_format_faults(faults))
    return jobs, notes


def _pairs_of_folder(source, target):
    """Return [(image, output)], faults and notes of a folder."""
    if target.exists() and not target.is_dir() or is_image(target) and not target.exists():
        raise UserError(f"OUTPUT={target} names a file, but INPUT={source} is a folder; give a folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"OUTPUT={target} is inside INPUT={source}, where the next run would read it as input;"
            " give a folder elsewhere"
        )
    images, others = find_images(source)
    faults = [f"{path}: {BROKEN_LINK}" for path in others if not path.exists()]
    if not images and not faults:
        raise UserError(f"INPUT={source} holds no image in a format that can be read (PNG, TIFF, NPY)")
    notes = left_out(source, [str(path.relative_to(source)) for path in others])
    return [(path, target / path.relative_to(source)) for path in images], faults, notes


def _job(path, output, pages_per_page, faults):
    """Return (info, output); append the problem of either to `faults`."""
    try:
        info = read_info(path)
        check_writable(output, info.pages * pages_per_page, info.tags)
        if os.path.lexists(output):
            raise UserError(f"OUTPUT={output} exists; give another name or delete it")
        above = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise UserError(f"OUTPUT={output} lies below {above}, which is no folder; give another name")
        return info, output
    except UserError as error:
        faults.append(str(error))
        return None


def _format_faults(faults):
    if len(faults) == 1:
        return faults[0]
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return "\n  ".join([f"{len(faults)} faults found, nothing was written:", *faults[:LISTED], *more])


def super_resolve_files(generator, jobs, tile=None, progress=lambda info, pages: pages):
    """Super-resolve the images of `list_jobs`, page by page or volume by volume; yields each job when its
    file is written.

    progress(info, pages) wraps the HR pages of a file as tqdm does.
    """
    results = super_resolve_pages(generator, _images_of(jobs, generator.config.ndim), tile)
    for info, path in jobs:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = info.pages * depth_scale(generator)
        pages = itertools.islice(results, count)
        try:
            write_pages(path, progress(info, pages), count, _scale_tags(info.tags, generator))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{info.path}: {memory_of(_device_of(generator))} is too small for"
                f" --tile {_tile_or_default(tile, generator)}; use a smaller --tile"
            ) from None
        yield info, path


def _images_of(jobs, ndim):
    """Yield the images of all files, one file after the other: pages for a 2-D generator, volumes for a 3-D
    one.
    """
    for info, _ in jobs:
        if ndim == 2:
            yield from _pages_of(info)
        else:
            yield np.stack(list(_pages_of(info)))


def _pages_of(info):
    pages = 0
    for page in read_pages(info.path):
        yield page
        pages += 1
    if pages != info.pages:
        raise UserError(
            f"{info.path} has {pages} pages now and had {info.pages} before: it was changed while it was read"
        )


def _scale_tags(tags, generator):
    """Scale the resolution, as the pixels are `scale` times smaller, and the distance of slices of a volume
    in ImageJ's description.
    """
    scale, tags = generator.config.scale, dict(tags)
    if "resolution" in tags:
        tags["resolution"] = tuple((pixels * scale, units) for pixels, units in tags["resolution"])
    if generator.config.ndim == 3 and "description" in tags:
        tags["description"] = re.sub(
            r"^spacing=(\d+\.?\d*(?:e-?\d+)?)(?=\s*$)",
            lambda match: f"spacing={float(match[1]) / scale:.10g}",
            tags["description"],
            flags=re.MULTILINE | re.IGNORECASE,
        )
    return tags
