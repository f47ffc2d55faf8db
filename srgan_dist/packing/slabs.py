"""Splits of a rock with one or two volumes: slabs along the longest axis with gaps between them, or as given.

Of stacks, whose slices are packed as images, they are blocks of slices.
"""

import re
from dataclasses import replace
from itertools import groupby, pairwise
from typing import NamedTuple

from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.part import part_of
from srgan_dist.packing.source import few_sources, grouped, split_in_order
from srgan_dist.utils.errors import UserError

FEWEST_SLICES = 10  # of a stack that is split


class Slabs(NamedTuple):
    """Slabs that a user gives, in HR voxels of a file."""

    axis: int  # of z, y, x
    bounds: dict  # split -> (first voxel, voxel behind the last); None is the end of the volume, -1 its last


def parse_slabs(text):
    """Return the Slabs of AXIS,train=FIRST:END,valid=FIRST:END,test=FIRST:END; raises UserError.

    FIRST and END are as in Python: either may be missing, and negative ones count from the end.
    """
    axis, *parts = text.replace(" ", "").split(",")
    rule = rf"({'|'.join(SPLITS)})=(-?\d{{1,9}})?:(-?\d{{1,9}})?"
    found = [re.fullmatch(rule, part, re.ASCII) for part in parts]
    bounds = {match[1]: tuple(n and int(n) for n in match.groups()[1:]) for match in found if match}
    if axis not in ("z", "y", "x") or "train" not in bounds or len(bounds) != len(parts):
        raise UserError(
            f"slabs={text} must be an axis and the HR voxels of train and, if you like, valid and test along"
            " it, FIRST:END, each once; use e.g. x,train=:300,test=-90:"
        )
    return Slabs("zyx".index(axis), bounds)


def slabs(size, crop, scale):
    """Cut `size` HR voxels of an axis 8:1:1 into train, valid and test: [(first voxel, voxels)] of each.

    Between them `crop` voxels belong to no split, so no crop of one is next to a crop of another. All are
    multiples of scale, `crop` at least; None where the axis is too short for that, with fewer than 5 crops.
    """
    usable = size - 2 * crop
    tenth = max(crop, usable // 10 // scale * scale)
    train = (usable - 2 * tenth) // scale * scale
    if train < crop:
        return None
    return [(0, train), (train + crop, tenth), (train + tenth + 2 * crop, tenth)]


def blocks_of_slices(count):
    """Cut `count` slices 8:1:1 into train, valid and test: [(first slice, slices)] of each.

    Between them a twentieth, at least one, belongs to no split; None for fewer than FEWEST_SLICES.
    """
    if count < FEWEST_SLICES:
        return None
    tenth, gap = count // 10, max(1, count // 20)
    train = count - 2 * (tenth + gap)
    return [(0, train), (train + gap, tenth), (train + tenth + 2 * gap, tenth)]


def cut_as_given(scan, options, shapes):
    """Cut every source of a Scan into options.slabs, whose bounds are HR voxels of its file.

    shapes: {file of a source: HR shape of the whole file}; of a registered pair the overlap is a part of it.
    Slabs are reduced to that part, and inwards to whole LR voxels. Faults are slabs that are outside of a
    volume, that overlap, or of which nothing is left, and sources that have a split.
    """
    given, sources, problems = parse_slabs(options.slabs), [], {}
    for source in scan.sources:
        size = shapes[source.file][given.axis]
        bounds = {split: _resolved(*ends, size) for split, ends in given.bounds.items()}
        cuts = {split: _inside(source, given.axis, *ends, options.scale) for split, ends in bounds.items()}
        if problem := _problem(source, bounds, cuts, size, "zyx"[given.axis]):
            problems.setdefault(f"slabs={options.slabs}: {problem}", []).append(source.hr.path)
            sources.append(source)  # its other faults are found too
            continue
        parts = [_part(source, given.axis, *cut, split, options.scale) for split, cut in cuts.items()]
        sources += parts
        scan.notes.append(_note(source, parts, given.axis))
    scan.faults.extend(grouped(problems))
    scan.sources[:] = sources


def _resolved(first, end, size):
    """Return (first voxel, voxel behind the last) of an axis of `size` voxels, counted from its start."""
    first, end = first or 0, size if end is None else end
    return first + size * (first < 0), end + size * (end < 0)


def _inside(source, axis, first, end, scale):
    """Return (first voxel of `source`, voxels) of those of its file that it holds, in whole LR voxels."""
    corner = source.corner[axis]
    first = -(-max(0, first - corner) // scale) * scale
    return first, (min(end - corner, source.hr.shape[axis]) - first) // scale * scale


def _problem(source, bounds, cuts, size, axis):
    """Return what is wrong with `bounds` of a source, {split: (first voxel, voxel behind the last)}."""
    if source.split:
        return "is for rocks of one or two volumes, but its splits are whole volumes; leave out --slabs"
    in_order = sorted((*ends, split) for split, ends in bounds.items())
    for first, end, split in in_order:
        if not 0 <= first < end <= size:
            return f"{split} is {first}:{end}, which is no part of its {size} HR voxels along {axis}"
        if cuts[split][1] < 1:
            return f"{split} is {first}:{end}, which holds no LR voxel that both sides show; enlarge it"
    for (_, end, one), (first, _, other) in pairwise(in_order):
        if first < end:
            return f"{one} ends at {end}, but {other} begins at {first}; leave a gap of a crop between them"
    return None


def cut_into_slabs(scan, options):
    """Give a split to those sources of a Scan that have none, which are the few volumes of a rock.

    Stacks whose slices are packed as images are cut into blocks along z, the second in the other order: where
    it is the continuation of the first, slices of one split meet. In 3-D each volume is cut into slabs along
    its longest axis (of equal ones the first); the volumes of a rock of which one is too small for that are
    dealt out whole.
    """
    sources = []
    for (rock, undecided), members in groupby(scan.sources, lambda s: (s.rock, s.split is None)):
        members = list(members)
        if not undecided:
            sources += members
            continue
        parts = [_slabs_of(source, options, number) for number, source in enumerate(members)]
        if all(parts):
            sources += [slab for slabs_of_source in parts for slab in slabs_of_source]
            scan.notes.extend(
                _note(source, of_source, _axis(source, options)) for source, of_source in zip(members, parts)
            )
        else:
            splits = split_in_order(len(members))
            sources += [replace(source, split=split) for source, split in zip(members, splits, strict=True)]
            scan.notes.append(
                f"{few_sources(rock, len(members))}; slabs of one would need 5 crops,"
                f" {5 * options.crop} voxels, along an axis"
            )
    scan.sources[:] = sources


def _slabs_of(source, options, number):
    """Return the slabs of source `number` of a rock, one for each split, or None."""
    if options.ndim == 2:
        count = source.hr.slices
        cuts = blocks_of_slices(count)
        if number == 1:
            cuts = [(count - start - length, length) for start, length in cuts]
        return [_part(source, 0, *cut, split, 1) for cut, split in zip(cuts, SPLITS, strict=True)]
    if min(source.hr.shape) < options.crop:
        return None  # a fault of the whole file, which `check_samples` names
    axis = _axis(source, options)
    cuts = slabs(source.hr.shape[axis], options.crop, options.scale)
    return cuts and [
        _part(source, axis, *cut, split, options.scale) for cut, split in zip(cuts, SPLITS, strict=True)
    ]


def _axis(source, options):
    """Return the axis that is cut: of volumes the longest, of equal ones the first."""
    return 0 if options.ndim == 2 else source.hr.shape.index(max(source.hr.shape))


def _part(source, axis, start, length, split, scale):
    def cut(volume, start, length):
        corner = [start if a == axis else 0 for a in range(3)]
        return corner, part_of(volume, corner, [*volume.shape[:axis], length, *volume.shape[axis + 1 :]])

    corner, hr = cut(source.hr, start, length)
    lr = cut(source.lr, start // scale, length // scale)[1] if source.lr else None
    corner = tuple(whole + inside for whole, inside in zip(source.corner, corner, strict=True))
    return replace(source, name=f"{source.name}_{split}", split=split, hr=hr, lr=lr, corner=corner)


def _note(source, parts, axis):
    listed = ", ".join(
        f"{part.split} {part.corner[axis]} to {part.corner[axis] + part.hr.shape[axis] - 1}" for part in parts
    )
    return f"{source.file}: its splits are slabs along {'zyx'[axis]}: {listed}; what is between is in none"
