"""Applying a generator to images and volumes of any size, tile by tile, as if it saw each in one piece."""

import itertools
import math
import numbers
import operator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from srgan_dist.data.degradation import weights_of_axis
from srgan_dist.data.noise import Noise
from srgan_dist.data.value_range import to_grey_levels, to_metric_range, to_network_range
from srgan_dist.models import makes_grain, noise_channels
from srgan_dist.models.weights_file import check_output
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.utils.errors import UserError

NOISE = Noise()  # of a generator with noise, where nothing else is said

# ndim -> LR pixels of a tile along each axis; in 2-D a 16-block network at x4 needs about 1.5 GB for it.
# In 3-D of generators without `floats_per_pixel`; of others it is one of BLOCKS, by its activations
TILES = {2: 192, 3: 32}
BLOCKS = range(32, 128 + 1, 8)  # multiples of 8, which chunks of Zarr can share
DRAWS_AT_ONCE = 8  # of the noise, for which all else is computed once
ACTIVATION_BYTES = {"cpu": 2**29, "gpu": 6 * 2**30}  # of a block
CPU_BYTES = 2**30  # of all blocks of a volume that are computed at a time, whatever the number of threads


def super_resolve(generator, lr, tile=None, noise=NOISE, number=0):
    """Super-resolve images of one shape: lr [..., *shape] numpy uint8 or uint16 -> float32 tensor [...,
    *(s*shape)] in [0, 1] on the device; shape has as many axes as the generator has dimensions.

    tile: LR pixels of a tile along each axis; None: `tile_or_default`. noise: each image has that of image
    `number` of a stack.
    """
    scale, ndim = generator.config.scale, generator.config.ndim
    shape = lr.shape[-ndim:]
    sr = torch.empty(*lr.shape[:-ndim], *(scale * length for length in shape), device=device_of(generator))
    for window in tiles_of(shape, tile_or_default(tile, generator, shape)):
        sr[..., *scaled(window, scale)] = super_resolve_window(generator, lr, window, noise, number)
    return sr


def super_resolve_by_slices(generator, lr, tile=None, noise=NOISE):
    """Super-resolve volumes by a 2-D generator, slice by slice, and enlarge z by cubic interpolation:
    lr [..., D, H, W] -> float32 tensor [..., s*D, s*H, s*W] in [0, 1] on the device.
    """
    scale, depth = generator.config.scale, lr.shape[-3]
    slices = [super_resolve(generator, lr[..., z, :, :], tile, noise, z) for z in range(depth)]
    weights = torch.tensor(weights_of_axis(depth, scale * depth, "bicubic")).float()
    stack = torch.stack(slices, -3)
    return torch.einsum("zd,...dhw->...zhw", weights.to(stack.device), stack).clamp(0, 1)


def super_resolve_window(generator, lr, window, noise=NOISE, number=0):
    """Super-resolve a window of images: lr [..., *shape] -> [..., *(s * window's shape)], with the values
    that it has in the whole image. window: a slice in LR pixels per axis. noise, number: its seed and
    strength, and the number of the image in its stack.

    The network reads `generator.tile_overlap` LR pixels beyond the window on each side, as far as the image
    goes.
    """
    wide = _with_surroundings(generator, lr, window)
    (sr,) = draws_of_part(generator, lr[..., *wide], wide, window, noise, number)
    return sr


def _with_surroundings(generator, lr, window, halo=None):
    whole = [slice(0, length) for length in lr.shape[-len(window) :]]
    return common(widened(window, generator.tile_overlap if halo is None else halo), whole)


@torch.inference_mode()
def draws_of_part(generator, pixels, wide, window, noise=NOISE, number=0, samples=1):
    """Super-resolve a window of images of which only a part is in memory: pixels [..., *shape] ->
    [..., *(s * window's shape)], once for each of `samples` seeds of the noise from its own on.

    wide: the place of `pixels` in the whole image, a slice in LR pixels per axis; window: that of the result.
    A generator that has `features` and `upsampled` computes its features once, and enlarges only as much as
    the window needs of them.
    """
    scale, lr = generator.config.scale, _network_input(generator, pixels)
    enlarge = partial(generator, lr)
    if hasattr(generator, "features"):
        features, outer = generator.features(lr), wide
        wide = common(widened(window, generator.upsampling_overlap), outer)
        inner = within(wide, outer)
        enlarge = partial(generator.upsampled, features[:, :, *inner], lr[:, :, *inner])
    shape = *pixels.shape[: -len(window)], *(side.stop - side.start for side in scaled(window, scale))
    grain = makes_grain(generator)
    at_once = (DRAWS_AT_ONCE if len(lr) == 1 else 1) if grain else samples
    for first in range(0, samples, at_once):
        draws = [replace(noise, seed=noise.seed + k) for k in range(first, min(first + at_once, samples))]
        fields = (
            [torch.cat([_noise_of(generator, wide, len(lr), draw, number) for draw in draws])]
            if grain
            else []
        )
        output = enlarge(*fields).squeeze(1)
        check_output(output, generator)
        unit = to_metric_range(output[:, *scaled(within(window, wide), scale)].float())
        yield from unit.view(-1, *shape).expand(len(draws), *shape)


def _network_input(generator, pixels):
    """Return pixels [..., *shape] as a batch [B, 1, *shape] in the range of the network, on its device."""
    # PyTorch warns of arrays that are read-only, e.g. memory maps
    pixels = np.require(pixels, requirements=["C", "W"])
    network_input = to_network_range(torch.from_numpy(pixels).to(device_of(generator)))
    return network_input.view(-1, 1, *pixels.shape[-generator.config.ndim :])


def _noise_of(generator, window, batch, noise, number):
    """Return the noise of a window, in LR pixels, for a batch: [batch, channels, *HR shape]."""
    sides = scaled(window, generator.config.scale)
    shape, channels = [side.stop - side.start for side in sides], noise_channels(generator.config)
    field = noise.at([number], [side.start for side in sides], shape, channels, device_of(generator))
    return field.expand(batch, *field.shape[1:])


def tiles_of(shape, tile):
    """Cut an image into tiles, the last axis fastest: yields a tuple of slices in pixels, one per axis."""
    sides = [
        [slice(start, min(start + tile, length)) for start in range(0, length, tile)] for length in shape
    ]
    return itertools.product(*sides)


def scaled(window, scale):
    """Return the window in HR pixels of a window in LR pixels."""
    return tuple(slice(side.start * scale, side.stop * scale) for side in window)


def widened(window, margin):
    """Return a window with a margin on each side, which may begin below 0."""
    return tuple(slice(side.start - margin, side.stop + margin) for side in window)


def common(window, whole):
    """Return the part of a window that is also in another one."""
    pairs = zip(window, whole, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def within(window, outer):
    """Return a window relative to the first pixel of another one."""
    pairs = zip(window, outer, strict=True)
    return tuple(slice(side.start - first.start, side.stop - first.start) for side, first in pairs)


def super_resolve_pages(generator, images, tile=None, noise=NOISE, samples=None, halo=None):
    """Super-resolve images in their own type and yield the HR pages, each [s*H, s*W] numpy uint8 or uint16:
    one per [H, W] image of a 2-D generator, s*D per [D, H, W] volume of a 3-D one.

    images: (number in its stack, image) of each; the number decides the noise. samples: draws of the
    noise, with the seeds from that of `noise` on; then a page is the pair of their mean and their
    standard deviation (float32, grey levels). Pages are assembled tile by tile, those of a volume in
    slabs of one tile's depth, so memory is bounded by some tiles and one slab. On a CPU every thread has
    a tile of its own, of this slab or of the next. halo: LR pixels around a tile that are read, fewer than
    those with which the result is exact.
    """
    scale = generator.config.scale

    def compute(job):
        number, image, window = job
        wide = _with_surroundings(generator, image, window, halo)
        draws = draws_of_part(generator, image[wide], wide, window, noise, number, samples or 1)
        return image, window, grey_levels_of(draws, image.dtype, samples)

    jobs = (
        (number, image, window)
        for number, image in images
        for window in tiles_of(image.shape, tile_or_default(tile, generator, image.shape, halo))
    )
    for image, window, results in one_thread_each(compute, jobs, device_of(generator)):
        *_, height, width = image.shape
        *_, rows, columns = window
        if rows.start == columns.start == 0:
            slabs = [
                np.empty((*pixels.shape[:-2], height * scale, width * scale), pixels.dtype)
                for pixels in results
            ]
        for slab, pixels in zip(slabs, results, strict=True):
            slab[..., *scaled((rows, columns), scale)] = pixels
        if (rows.stop, columns.stop) == (height, width):
            pages = [slab.reshape(-1, *slab.shape[-2:]) for slab in slabs]
            yield from pages[0] if samples is None else zip(*pages, strict=True)


def grey_levels_of(draws, dtype, samples=None):
    """Return SR in [0, 1] as arrays of grey levels: [the only draw, of `dtype`], with samples [their mean, of
    `dtype`, and their standard deviation, float32].
    """
    if samples is None:
        return [to_grey_levels(next(draws).cpu().numpy(), dtype)]
    mean, spread = mean_and_spread(draws)
    return [to_grey_levels(mean.cpu().numpy(), dtype), spread.cpu().numpy() * np.float32(np.iinfo(dtype).max)]


def super_resolve_samples(generator, lr, samples, noise=NOISE):
    """Return the mean and the standard deviation of `samples` draws of the noise, with the seeds from that of
    `noise` on, of one image: lr [*shape] -> [*(s*shape)] each, as of `super_resolve`.
    """
    scale = generator.config.scale
    sr = torch.empty(2, *(scale * length for length in lr.shape), device=device_of(generator))
    for window in tiles_of(lr.shape, tile_or_default(None, generator, lr.shape)):
        wide = _with_surroundings(generator, lr, window)
        draws = draws_of_part(generator, lr[wide], wide, window, noise, samples=samples)
        for whole, part in zip(sr, mean_and_spread(draws), strict=True):
            whole[scaled(window, scale)] = part
    return sr


def mean_and_spread(draws):
    """Return the mean and the standard deviation (with N - 1) of N images, two or more, taken one by one.

    Welford (1962), "Note on a method for calculating corrected sums of squares and products".
    """
    mean = squares = 0
    for count, draw in enumerate(draws, start=1):
        difference = draw - mean
        mean = mean + difference / count
        squares = squares + difference * (draw - mean)
    return mean, (squares / (count - 1)).sqrt()


def check_noise(generator, noise, samples):
    """Raise UserError where noise settings are wrong, or cannot have an effect on this generator."""
    if not (isinstance(noise.seed, numbers.Integral) and 0 <= noise.seed < 2**63):
        raise UserError(f"noise seed {noise.seed!r} must be a whole number from 0 to 2^63 - 1")
    if not (isinstance(noise.strength, numbers.Real) and 0 <= noise.strength <= 10):
        raise UserError(f"noise {noise.strength!r} must be a number from 0 (none) to 10; 1 is as trained")
    if samples is not None and not (isinstance(samples, numbers.Integral) and 2 <= samples <= 1000):
        raise UserError(f"samples={samples!r} must be a whole number from 2 to 1000")
    if noise.seed + (samples or 1) > 2**63:
        raise UserError(
            f"noise seed {noise.seed} is too large for samples={samples}, whose seeds follow it; the largest"
            " is 2^63 - 1"
        )
    if noise_channels(generator.config) == 0 and (noise != NOISE or samples is not None):
        raise UserError(
            "these weights are those of a generator without noise (generator.noise=0), whose result never"
            " varies: leave noise, its seed and samples out, or train one with generator.noise=2"
        )
    if samples is not None and noise.strength == 0:
        raise UserError(f"samples={samples} of noise 0 are all the same; give a noise above 0")
    if samples is not None and not makes_grain(generator):
        raise UserError(
            f"samples={samples} of these weights are all the same, for no phase has trained their texture:"
            " use weights of phase 2, or leave samples out"
        )


def depth_scale(generator):
    """Return the number of HR pages per LR page: 1 for a 2-D generator, its scale for a 3-D one."""
    return generator.config.scale if generator.config.ndim == 3 else 1


def tile_or_default(tile, generator, shape, halo=None):
    """Return LR pixels of a tile along each axis: `tile`, where it is None those of TILES or, in 3-D, the
    largest of BLOCKS whose activations fit ACTIVATION_BYTES, at least the smallest.

    shape: of the volume. halo: None is that of the generator.
    """
    if tile is not None or not _has_known_activations(generator):
        return TILES[generator.config.ndim] if tile is None else tile
    limit = ACTIVATION_BYTES["cpu" if device_of(generator).type == "cpu" else "gpu"]
    fitting = (tile for tile in BLOCKS if _activation_bytes(generator, tile, shape, halo) <= limit)
    return max(fitting, default=BLOCKS[0])


def blocks_at_once(generator, tile, shape, halo=None):
    """Return how many blocks of a volume a CPU may compute at a time: those whose activations fit CPU_BYTES,
    at least one; None where they are not known. Arguments as of `tile_or_default`.
    """
    if not _has_known_activations(generator):
        return None
    return max(1, CPU_BYTES // _activation_bytes(generator, tile, shape, halo))


def _has_known_activations(generator):
    return generator.config.ndim == 3 and hasattr(generator, "floats_per_pixel")


def _activation_bytes(generator, tile, shape, halo):
    """Return 4 bytes times the larger of floats_per_pixel[0] * (block and halo) and floats_per_pixel[1] *
    (block and upsampling_overlap), both in LR voxels and as far as the volume, of `shape`, goes.
    """
    margins = generator.tile_overlap if halo is None else halo, generator.upsampling_overlap
    sizes = (math.prod(min(tile + 2 * margin, length) for length in shape) for margin in margins)
    return 4 * max(map(operator.mul, generator.floats_per_pixel, sizes))


def check_halo(generator, halo):
    """Raise UserError unless `halo` is None or, of a 3-D generator, at most what makes the tiles exact."""
    if halo is not None and generator.config.ndim == 2:
        raise UserError(f"halo={halo} is for volumes of a 3-D generator, and this one is 2-D; leave it out")
    if halo is not None and not 0 <= halo <= generator.tile_overlap:
        raise UserError(
            f"halo={halo} must be 0 to {generator.tile_overlap}, with which these weights are exact; leave it"
            " out for that"
        )


def check_tile(tile):
    """Raise UserError unless `tile` is None or a positive whole number."""
    if tile is not None and not (isinstance(tile, numbers.Integral) and tile >= 1):
        raise UserError(
            f"tile={tile!r} must be a whole number, 1 or more; leave it out for a tile that fits most GPUs"
        )


def device_of(generator):
    return next(generator.parameters()).device
