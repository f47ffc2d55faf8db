"""The samples of each source: its pages, tiles or blocks; and the faults of all samples together."""

import itertools
from dataclasses import dataclass

import numpy as np

from srgan_dist.data.degradation import draw_kernel
from srgan_dist.data.image_files import is_raw
from srgan_dist.data.sample import key_problem
from srgan_dist.packing.source import grouped


@dataclass(frozen=True)
class Sample:
    """One HR/LR pair to be packed: a block of a source, in its HR pixels along (page, row, column).

    In 2-D it is a tile of one page: a block of depth 1, stored as [H, W].
    """

    key: str
    source: int  # position in the list of sources
    corner: tuple
    shape: tuple
    kernel: str | None  # None: it is not known which made LR, or none did


def tile_starts(size, tile, scale):
    """Cut one axis of `size` pixels into tiles: (length of a tile, first pixel of each).

    Tiles are `tile` long, evenly spaced, and overlap rather than leave a remainder. An axis that is shorter
    than that is one tile; only the excess over a multiple of `scale` (less than `scale` pixels) is left out
    at its ends. One that is shorter than `scale` has no tile.
    """
    whole = size - size % scale
    if whole == 0:
        return 0, []
    if whole <= tile:
        return whole, [(size - whole) // 2]
    count = -(-size // tile)
    return tile, [round(i * (size - tile) / (count - 1)) for i in range(count)]


def list_samples(sources, options):
    """Cut every source into samples, in the order of the sources, each in the order of its pages."""
    cut = {True: _pair_samples, False: _tile_samples}
    return [
        sample
        for position, source in enumerate(sources)
        for sample in cut[source.lr is not None](position, source, options)
    ]


def _pair_samples(position, source, options):
    """Take each page of a pair as it is, or in 3-D cut both volumes into blocks, on the grid of LR voxels."""
    pages, height, width = source.hr.shape
    if options.ndim == 3:
        return _cut(position, source, [_pair_starts(size, options) for size in source.hr.shape], options)
    name, shape = source.name, (1, height, width)
    return [
        Sample(
            name + _page_suffix(source.corner[0] + page, pages), position, (page, 0, 0), shape, source.kernel
        )
        for page in range(pages)
    ]


def _pair_starts(size, options):
    length, starts = tile_starts(size // options.scale, options.tile // options.scale, 1)
    return length * options.scale, [start * options.scale for start in starts]


def _tile_samples(position, source, options):
    """Cut every page of an HR image into tiles, or in 3-D the volume into blocks."""
    pages, *plane = source.hr.shape
    depth = tile_starts(pages, options.tile, options.scale) if options.ndim == 3 else (1, range(pages))
    axes = [depth, *(tile_starts(size, options.tile, options.scale) for size in plane)]
    return _cut(position, source, axes, options)


def _cut(position, source, axes, options):
    """List the samples of a source; axes: (length, starts) along each."""
    shape = tuple(length for length, _ in axes)
    starts = [starts for _, starts in axes]
    samples = []
    for corner in itertools.product(*starts):
        in_file = [inside + start for inside, start in zip(corner, source.corner, strict=True)]
        key, kernel = source.name + _suffix(in_file, starts, options.ndim), source.kernel
        if source.lr is None and options.scanner is None:
            kernel = draw_kernel(options.kind, options.seed, key)
        samples.append(Sample(key, position, corner, shape, kernel))
    return samples


def _suffix(corner, starts, ndim):
    """Return the end of a key: _p0003 of a page, _y0000_x0000 of a tile, _z0000_y0000_x0000 of a block."""
    page = _page_suffix(corner[0], len(starts[0])) if ndim == 2 else ""
    axes = range(3 - ndim, 3)
    if all(len(starts[axis]) == 1 for axis in axes):
        return page
    return page + "".join(f"_{'zyx'[axis]}{corner[axis]:04d}" for axis in axes)


def _page_suffix(page, pages):
    digits = max(4, len(str(pages - 1)))
    return f"_p{page:0{digits}d}" if pages > 1 else ""


def check_samples(sources, samples, options):
    """Return the faults of the whole set: mixed pixel types, small images, names."""
    faults = []
    dtypes = {source.hr.dtype: source.hr.path for source in sources}
    if len(dtypes) > 1 and options.dtype is None:
        (one, first), (other, second) = list(dtypes.items())[:2]
        faults.append(
            f"{first}: is {one} and {second} is {other}; one set holds one pixel type."
            " Use --dtype uint16 to store 8-bit values times 257"
        )
    if options.scanner and any(source.lr for source in sources):
        faults.append("lr_blur makes an LR side, but the source has one; leave out --lr-blur")
    if options.align is not None and not all(source.lr for source in sources):
        faults.append("align registers pairs, but the source has no LR side; leave out --align")
    if options.raw and not any(is_raw(side.path) for s in sources for side in (s.hr, s.lr) if side):
        faults.append(
            f"raw={options.raw} is of voxels without a header; the source has none, leave out --raw"
        )
    faults += _small_images(sources, options)
    return list(dict.fromkeys(faults)) + _bad_keys(sources, samples) + _collisions(sources, samples)


def _small_images(sources, options):
    problems, scale = {}, options.scale
    square, pixels, image = (
        ("square", "pixels", "image") if options.ndim == 2 else ("cube", "voxels", "volume")
    )
    for source in sources:
        size = source.hr.shape[-options.ndim :]
        if min(size) < options.crop:
            largest = min(size) // scale * scale
            problem = (
                f"{'x'.join(map(str, size))} {pixels}{' of overlap' * bool(source.alignment)} are less than"
                f" crop={options.crop}, the HR {square} that training cuts ({options.crop // scale} LR"
                f" {pixels} at scale={scale}); leave the {image} out"
                + (f", or choose --crop {largest} or less" if largest else "")
                + (", or pack slices, with --dims 2" if options.ndim == 3 and size[0] == 1 else "")
            )
            problems.setdefault(problem, []).append(source.hr.path)
    return grouped(problems)


def _bad_keys(sources, samples):
    """Return the faults of keys, one per file, whatever the number of its samples."""
    faults = {}
    for sample in samples:
        path = sources[sample.source].hr.path
        if path not in faults and (problem := key_problem(sample.key)):
            faults[path] = f"{path}: {problem}; rename the file"
    return list(faults.values())


def _collisions(sources, samples):
    """Return the faults of files with equal keys, one per pair of them."""
    seen, faults = {}, {}
    for sample in samples:
        path = sources[sample.source].hr.path
        other = seen.setdefault(sample.key.lower(), path)
        if other != path:
            fault = f"{path}: has the same key {sample.key!r} as {other}; rename one of them"
            faults.setdefault((path, other), fault)
    return list(faults.values())


def stored_dtype(sources, dtype):
    """Return the pixel type of the set: the given one, else that of the images."""
    return np.dtype(dtype) if dtype else sources[0].hr.dtype
