"""Registration of the pairs of a build: each is cut to its overlap, or refused.

HR is shifted by whole voxels, by cropping both sides, and neither is resampled: the rest shift is at most
half an HR voxel per axis. On a sandstone core scanned twice (x3, shift -1.28, -1.04, -0.86) tricubic
interpolation scores 20.60 dB without alignment, 20.81 dB after this, and 20.82 dB after a cubic resampling of
LR by the rest of the shift as well, which is not worth changing the voxels of a scan.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from srgan_dist.data.part import part_of
from srgan_dist.data.volume import ImageError
from srgan_dist.packing.align import find_shift, overlap
from srgan_dist.packing.match import MARGIN, PAIRED, match

SIDE = {2: 512, 3: 64}  # LR pixels along an axis of the middle part that is registered


class Aligned(NamedTuple):
    """The result for one source."""

    source: object
    fault: str | None


def align_sources(scan, options, run, progress):
    """Replace the pairs of a Scan by their aligned parts; faults and notes name each with its numbers."""
    work = partial(_align, scale=options.scale, ndim=options.ndim, limit=options.align)
    pairs = [source for source in scan.sources if source.lr]
    aligned = list(progress(run(work, pairs), len(pairs), "register pairs"))
    scan.faults.extend(result.fault for result in aligned if result.fault)
    scan.notes.extend(_note(result.source) for result in aligned if not result.fault)
    others = [source for source in scan.sources if not source.lr]
    scan.sources[:] = others + [result.source for result in aligned if not result.fault]


def _align(source, scale, ndim, limit):
    hr, lr = source.hr, source.lr
    try:
        images = middle(hr, lr, scale, ndim)
        alignment, found = find_shift(*images, scale), match(*images, scale)
    except ImageError as error:
        return Aligned(source, str(error))
    except ValueError as error:
        return Aligned(source, f"{hr.path}: cannot be registered with {lr.path}: {error}")
    facts = _facts(alignment)
    if found and found.turned >= PAIRED and found.turned > max(found.correlation, found.shifted) + MARGIN:
        return Aligned(
            source,
            f"{hr.path}: {lr.path} fits better when it is turned ({found.turn}: correlation"
            f" {found.turned:.2f} for {max(found.correlation, found.shifted):.2f}); turn one side",
        )
    for failed, problem in (
        (alignment.correlation < PAIRED, f"a correlation below {PAIRED}"),
        (max(map(abs, alignment.shift)) > limit, f"a shift of more than align={limit:g} HR pixels"),
    ):
        if failed:
            return Aligned(
                source,
                f"{hr.path}: registered with {lr.path} it has {problem} ({_words(facts)}); correct the pair,"
                " leave it out, or allow for larger shifts with --max-shift",
            )
    try:
        return Aligned(_cut(source, alignment.shift, facts, scale), None)
    except ValueError as error:
        return Aligned(source, f"{hr.path}: cannot be paired with {lr.path}: {error}")


def middle(hr, lr, scale, ndim):
    """Read the middle of both sides, of 2-D stacks the middle page: arrays of `ndim` axes."""
    steps = [1 if axis < 3 - ndim else scale for axis in range(3)]
    common = [min(fine // step, coarse) for fine, step, coarse in zip(hr.shape, steps, lr.shape, strict=True)]
    size = [1 if axis < 3 - ndim else min(SIDE[ndim], n) for axis, n in enumerate(common)]
    corner = [(whole - part) // 2 for whole, part in zip(common, size, strict=True)]
    fine = [[n * step for n, step in zip(part, steps, strict=True)] for part in (corner, size)]
    images = hr.read(*fine), lr.read(corner, size)
    return [image[0] if ndim == 2 else image for image in images]


def _cut(source, shift, facts, scale):
    """Return a source cut to the overlap of both sides."""
    ndim, pages = len(shift), source.hr.shape[: 3 - len(shift)]
    found = overlap(source.hr.shape[-ndim:], source.lr.shape[-ndim:], scale, shift)
    first = (0,) * len(pages)
    hr_shape = (*pages, *(scale * n for n in found.lr_shape))
    hr = part_of(source.hr, (*first, *found.hr_corner), hr_shape)
    lr = part_of(source.lr, (*first, *found.lr_corner), (*pages, *found.lr_shape))
    return replace(source, hr=hr, lr=lr, corner=(*first, *found.hr_corner), alignment=facts)


def _facts(alignment):
    """Return an Alignment for the record of a sample; rounded, so that machines agree."""
    shift = [round(step, 3) for step in alignment.shift]
    rest = [round(step - round(step), 3) for step in alignment.shift]
    others = {name: round(value, 4) for name, value in alignment._asdict().items() if name != "shift"}
    return {"shift": shift, "rest_shift": rest, **others}


def _words(facts):
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _note(source):
    return f"{source.file}: registered in HR pixels and grey levels: {_words(source.alignment)}"
