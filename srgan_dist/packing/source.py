"""A source of samples, and the helpers of all scans: headers read once, faults grouped by problem."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from srgan_dist.data.image_files import left_out, natural, read_info, split_images
from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.volume import ALLOWED_DTYPES, ImageError, Volume
from srgan_dist.data.window import Window, find_values, find_window, parse_window
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.scales import SCALES

_COMPARED = 2**24  # voxels of each side whose values are compared


@dataclass(frozen=True)
class Source:
    """One HR file or a part of it, with LR where there is one; all its samples belong to one split."""

    name: str  # prefix of the keys of its samples
    rock: str
    split: str | None  # None until a volume is cut into slabs
    file: str  # HR path below the source folder
    hr: Volume
    lr: Volume | None = None
    kernel: str | None = None  # that made `lr`, where it is known
    corner: tuple = (0, 0, 0)  # of `hr` in its file
    alignment: dict | None = None  # what the registration of a pair has found, see `alignment.py`


@dataclass(frozen=True)
class Scan:
    """The sources of a folder; `faults` and `labels` are errors, `notes` are information for the user."""

    sources: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # {folder that is called like label images: fault}
    read: Callable = read_info  # path -> Volume; all Volumes of a build are made by it
    series: set = field(default_factory=set)  # folders whose files are the slices of one volume


def only_images(files, folder, scan):
    """Return those files that are images, and the folders that are volumes; name the others in a note."""
    images, others = split_images([path for path in files if path not in scan.series])
    scan.notes.extend(left_out(folder, [path.name for path in others]))
    return sorted([*images, *(path for path in files if path in scan.series)], key=natural)


def header_or_problem(path, scan, problems):
    """Return the Volume of a file, or None and add its problem to {problem: paths}."""
    try:
        volume = scan.read(path)
        scan.notes.extend(volume.notes)
        return volume
    except ImageError as error:
        if error.path == path:
            problems.setdefault(str(error).removeprefix(f"{path}: "), []).append(path)
        else:
            scan.faults.append(str(error))  # it names the slice of a folder
        return None


def key_of(name):
    """Return a name in the characters of keys; a digest tells those apart that are not ASCII."""
    name = unicodedata.normalize("NFC", name)  # é is one character or two, as e.g. macOS writes it
    key = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if name.isascii():
        return key
    return f"{key}_{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def name_of(path, scan):
    """Return the name of a volume without suffix; a folder of slices has none."""
    return Path(os.path.abspath(path)).name if path in scan.series else path.stem


def apply_window(scan, window, dtype):
    """Map the values of all sources of a Scan to grey levels by one window; returns the Window.

    window: as `parse_window` takes it; percentiles are those of all HR sides. dtype: "uint16", or None for 8
    bits. Sides of two pixel types whose values do not agree are a fault.
    """
    window = parse_window(window)
    scan.faults.extend(_other_values(scan.sources))
    if not isinstance(window, Window):
        window = find_window([source.hr for source in scan.sources], window)
    stored = np.dtype(dtype or "uint8")
    scan.sources[:] = [
        replace(
            source,
            hr=source.hr.windowed(window, stored),
            lr=source.lr and source.lr.windowed(window, stored),
        )
        for source in scan.sources
    ]
    return window


def _other_values(sources):
    """Return a list of at most one fault: HR and LR of two pixel types, whose values are in other ranges."""
    mixed = [source for source in sources if source.lr and source.lr.dtype != source.hr.dtype]
    if not mixed:
        return []
    sides = [[source.hr for source in mixed], [source.lr for source in mixed]]
    try:
        values = [find_values(side, _COMPARED).astype(np.float64) for side in sides]
    except (UserError, ImageError):
        return []  # they are named when they are read
    (low, high), (lr_low, lr_high) = (np.percentile(side, (1, 99)) for side in values)
    width = high - low
    similar = width / 3 <= lr_high - lr_low <= 3 * width
    if similar and max(0, low - lr_low) + max(0, lr_high - high) <= width / 2:
        return []
    return [
        f"{some([source.hr.path for source in mixed])}: HR is {mixed[0].hr.dtype} with values of {low:.4g} to"
        f" {high:.4g}, LR is {mixed[0].lr.dtype} with {lr_low:.4g} to {lr_high:.4g} (percentiles 1 and 99),"
        " so no window maps both to the same grey levels; convert one side to the values of the other"
    ]


def pair_fits(hr, lr, problems, scale, ndim, aligned=False, two_dtypes=False, windowed=False):
    """Return whether two headers are those of a pair; adds to {problem: paths} where they are not.

    aligned: the pair will be registered and cut to its overlap, so that sizes may differ. two_dtypes: 8-bit
    values will be stored as 16 bits, so that both types may be there. windowed: values of any type will be
    mapped to grey levels.
    """
    misfits, hr_size, lr_size = [], hr.shape[-ndim:], lr.shape[-ndim:]
    if hr_size != tuple(scale * size for size in lr_size) and not aligned:
        misfits.append(
            f"is {'x'.join(map(str, hr_size))}, which is not scale={scale} times"
            f" {'x'.join(map(str, lr_size))} of its partner in {lr.path.parent}; {_way_out(hr_size, lr_size)}"
        )
    if ndim == 2 and hr.slices != lr.slices:
        misfits.append(
            f"has {hr.slices} pages, its partner in {lr.path.parent} has {lr.slices};"
            " pairs are slices of one plane; volumes are packed with --dims 3"
        )
    if (
        hr.dtype != lr.dtype
        and not windowed
        and not (two_dtypes and {hr.dtype, lr.dtype} == set(ALLOWED_DTYPES))
    ):
        way_out = " use --dtype uint16 to store 8-bit values times 257, or save one like the other"
        misfits.append(
            f"is {hr.dtype}, its partner in {lr.path.parent} is {lr.dtype}; both sides need one pixel type:"
            + (way_out if {hr.dtype, lr.dtype} == set(ALLOWED_DTYPES) else " save one like the other")
        )
    turned = [side.tags.get("orientation", 1) for side in (hr, lr)]
    if turned[0] != turned[1]:
        misfits.append(
            f"has Orientation {turned[0]}, its partner in {lr.path.parent} has {turned[1]}, so that they are"
            " turned otherwise; turn the pixels of one and save both with Orientation 1"
        )
    for misfit in misfits:
        problems.setdefault(misfit, []).append(hr.path)
    return not misfits


def _way_out(hr_size, lr_size):
    """Say what to do about a pair whose sizes do not fit."""
    ratio = next((n for n in SCALES if hr_size == tuple(n * size for size in lr_size)), None)
    if ratio:
        return f"use --scale {ratio}"
    if min(lr / hr for hr, lr in zip(hr_size, lr_size, strict=True)) > 1:
        return "HR and LR seem to be exchanged"
    return "correct the pair, or let --align cut both to their overlap"


def name_of_page(source, number):
    """Name a page of a source, numbered from its first one."""
    page = source.corner[0] + number
    return f"{source.hr.path}" + (f" page {page}" if page or source.hr.slices > 1 else "")


def name_of_block(source, corner):
    return f"{source.hr.path} block {corner}"


def split_in_order(count):
    """Assign `count` images of one rock to splits, 8:1:1 in their order, so that neighbours mostly stay
    together.

    From three images on each split has one at least; two give train and valid, one gives train.
    """
    if count < 3:
        return list(SPLITS[:count])
    tenth = max(1, (count + 5) // 10)
    return ["train"] * (count - 2 * tenth) + ["valid"] * tenth + ["test"] * tenth


def few_sources(rock, count):
    """Say which splits a rock of one or two images has not."""
    return (
        f"{rock}: {count} source image{'s' * (count != 1)} only, so there is no"
        f" {'test' if count == 2 else 'valid and no test'} split of it"
    )


def grouped(problems):
    """Turn {problem: paths} into one fault per problem."""
    return [f"{some(paths)}: {problem}" for problem, paths in problems.items()]


def some(paths):
    """Name the first three paths, and the number of the others."""
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
