"""Super-resolving a volume of any size by a 3-D generator, block by block: memory is bounded by some blocks,
an interrupted run continues, and ranks share the work.
"""

import math

import numpy as np

from srgan_dist.data.write_volumes import create, parts_of
from srgan_dist.evaluation.finished_outputs import fingerprint, raw_facts
from srgan_dist.evaluation.grey_range import MeanComparison, grey_volume, step_of, values_of
from srgan_dist.evaluation.super_resolve import (
    NOISE,
    blocks_at_once,
    check_halo,
    common,
    device_of,
    draws_of_part,
    grey_levels_of,
    scaled,
    tile_or_default,
    tiles_of,
    widened,
    within,
)
from srgan_dist.evaluation.super_resolve_files import spread_path
from srgan_dist.evaluation.unfinished_volume import unfinished_volume
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.device import memory_of
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import memory_named


def super_resolve_volume(
    generator,
    volume,
    output,
    weights,
    tile=None,
    halo=None,
    noise=NOISE,
    samples=None,
    window=None,
    rank=0,
    ranks=1,
    tell=print,
    warn=print,
    progress=lambda blocks, total: blocks,
    finished=None,
):
    """Super-resolve a Volume into the file `output`, in one of the formats of `write_volumes.FORMATS`.

    The voxels are those of the volume in one piece, to rounding, in the type of the volume. weights: text
    that tells other weights from these, e.g. their sha256. tile: LR voxels of a block along each axis, None:
    `tile_or_default`, of which tell() is given a note. halo: LR voxels around a block that the network reads,
    None: generator.tile_overlap; a smaller one is faster, and tell() is given its deviation. samples: draws
    of the noise, with the seeds from that of `noise` on; their mean is the output, and their standard
    deviation, float32 in the unit of the values, goes to `spread_path`. window: Window of values that the
    network sees as black to white, and to which its results are mapped back; types other than uint8 and
    uint16 need one, and are computed as 16-bit grey levels. rank, ranks: this process takes every ranks-th
    block. warn() is given a note where the mean of SR is not that of LR. progress(numbers, total) wraps the
    numbers of the blocks that this process has to do. finished: FinishedOutputs that note the files. Raises
    UserError for wrong settings, for a full disk, and where an unfinished output has other settings.
    """
    check_halo(generator, halo)
    halo = generator.tile_overlap if halo is None else halo
    scale, given, tile = generator.config.scale, tile, tile_or_default(tile, generator, volume.shape, halo)
    blocks = Blocks(generator, grey_volume(volume, window), tile, halo, noise)
    shape = tuple(scale * length for length in volume.shape)
    sizes = volume.voxel_sizes_um and tuple(size and size / scale for size in volume.voxel_sizes_um)
    settings = {
        "input": str(volume.path.resolve()),
        "its files (size or time of change)": fingerprint(volume.path),
        "its shape and type": f"{volume.shape} {volume.dtype}",
        **raw_facts(volume),
        "weights": weights,
        "tile": tile,
        "halo": blocks.halo,
        "noise": f"{noise.strength} {noise.seed}",
        "samples": samples,
        "window": window and str(window),
    }

    outputs = {output: volume.dtype, **({spread_path(output): np.dtype(np.float32)} if samples else {})}

    def make(path, dtype):
        create(path, shape, dtype, sizes, scale * tile).close()

    def compute(number):
        lr, grey, *spread = blocks.grey_levels(number, samples)
        step = step_of(window, volume.dtype)
        values = [values_of(grey, window, volume.dtype), *(step * levels for levels in spread)]
        return number, lr, grey, values

    def named():
        for part in [part for path in outputs for part in parts_of(path)] if finished else ():
            finished.add(volume, part, part)

    with unfinished_volume(outputs, settings, make, shape, rank, named) as unfinished:
        if unfinished.done and rank == 0:
            tell(f"{output}: continues, {len(unfinished.done)} of {len(blocks.windows)} blocks are done")
        if given is None and len(blocks.windows) > 1 and rank == 0:
            tell(blocks.note())
        if blocks.halo < generator.tile_overlap and rank == 0:
            tell(blocks.deviation())
        means = MeanComparison(blocks.volume.dtype)
        own = [n for n in range(rank, len(blocks.windows), ranks) if n not in unfinished.done]

        def too_small(error):
            memory = memory_of(device_of(generator))
            return UserError(
                f"{volume.path}: {memory} is too small for --tile {tile} --halo {blocks.halo}; use a smaller"
                " --tile"
            )

        with memory_named(too_small):
            at_once = blocks_at_once(generator, tile, volume.shape, halo)
            results = one_thread_each(compute, progress(own, len(own)), device_of(generator), at_once)
            for number, lr, grey, values in results:
                means.add_lr(lr)
                means.add_sr(grey)
                corner = [side.start for side in scaled(blocks.windows[number], scale)]
                unfinished.write(number, corner, values)
    if rank == 0:  # of its own blocks, which stand for all
        for note in means.note(volume.path):
            warn(note)


class Blocks:
    """The blocks of a volume by number, the last axis fastest, and what a generator makes of them."""

    def __init__(self, generator, volume, tile, halo, noise):
        self.generator, self.volume, self.halo, self.noise = generator, volume, halo, noise
        self.tile = tile
        self.windows = list(tiles_of(volume.shape, tile))

    def grey_levels(self, number, samples=None):
        """Return the LR voxels of a block, [d, h, w], and its HR voxels, [s*d, s*h, s*w] each, as
        `grey_levels_of` does.
        """
        window = self.windows[number]
        pixels, wide = self._read(window, self.halo)
        draws = draws_of_part(self.generator, pixels, wide, window, self.noise, samples=samples or 1)
        return [pixels[within(window, wide)], *grey_levels_of(draws, self.volume.dtype, samples)]

    def note(self):
        """Return a sentence: the tile, and the share of the work of the trunk that is for halos."""
        whole = [slice(0, length) for length in self.volume.shape]
        wide = (common(widened(window, self.halo), whole) for window in self.windows)
        read = sum(math.prod(side.stop - side.start for side in sides) for sides in wide)
        return (
            f"note: --tile {self.tile} is chosen: {len(self.windows)} blocks with a halo of {self.halo} LR"
            f" voxels, which is {1 - math.prod(self.volume.shape) / read:.0%} of the work of the network's"
            " trunk; a larger --tile needs less work and more memory"
        )

    def deviation(self):
        """Return a sentence: how much the halo changes the middle block, or as large a corner of it as the
        default tile is for the whole halo, which needs more memory.
        """
        generator, middle = self.generator, self.windows[len(self.windows) // 2]
        side = min(self.tile, tile_or_default(None, generator, self.volume.shape))
        part = tuple(slice(first.start, min(first.start + side, first.stop)) for first in middle)
        chosen = self._draw(middle, self.halo)[scaled(within(part, middle), generator.config.scale)]
        exact = self._draw(part, generator.tile_overlap)
        difference = (exact - chosen).abs().double() * np.iinfo(self.volume.dtype).max
        place = "the middle block" if part == middle else "a corner of the middle block"
        return (
            f"halo {self.halo} in place of {generator.tile_overlap}: in {place} grey levels"
            f" differ by {difference.max():.3g} at most, by {difference.mean():.3g} on average"
            f" (of {np.iinfo(self.volume.dtype).max})"
        )

    def _draw(self, window, halo):
        pixels, wide = self._read(window, halo)
        return next(draws_of_part(self.generator, pixels, wide, window, self.noise))

    def _read(self, window, halo):
        """Return the LR voxels of a window and its halo, and their place."""
        whole = [slice(0, length) for length in self.volume.shape]
        wide = common(widened(window, halo), whole)
        corner, shape = [side.start for side in wide], [side.stop - side.start for side in wide]
        return self.volume.read(corner, shape), wide
