"""A folder of HR images, one sub-folder per rock, optionally below `train`, `valid` and `test`.

A layout that only resembles this is a fault: a misspelt split would turn test images into training images.
"""

import os
from pathlib import Path

from srgan_dist.data.image_files import FORMATS
from srgan_dist.data.manifest import SPLITS
from srgan_dist.packing.scan_pairs import HR_END, LR_END
from srgan_dist.packing.slabs import blocks_of_slices
from srgan_dist.packing.source import (
    Source,
    few_sources,
    grouped,
    header_or_problem,
    key_of,
    name_of,
    only_images,
    some,
    split_in_order,
)
from srgan_dist.utils.scales import SCALES

_SPLIT_NAMES = {"train", "training", "valid", "validation", "val", "dev", "test", "testing"}


def find_images(root, files, ndim, scan, sides=()):
    """Add to a Scan the HR images among the files below `root`, and every fault of their layout.

    One or two volumes of a rock (ndim=3), or stacks, get no split here, as they can be cut. `root` may be its
    only file, a volume. sides: Sides, whose folders count for nothing in the layout.
    """
    images, problems = only_images(files, root, scan), {}
    given = _given_splits(root, images, sides, scan) if root.is_dir() and images != [root] else []
    if given:
        scan.notes.append(f"the splits are those of the folders {', '.join(given)}")
    groups = {}  # (rock, given split or None) -> [(header, names of folders below the rock's)], in order
    for path in images:
        parts = _parts(path, root, sides)
        split, parts = (parts[0], parts[1:]) if given else (None, parts)
        folders = parts[:-1] or parts * (path in scan.series)  # slices right in the folder of a rock
        rock, *inside = folders or [name_of(root, scan) if path == root else root.resolve().name]
        if info := header_or_problem(path, scan, problems):
            groups.setdefault((rock, split), []).append((info, inside))
    scan.faults.extend(grouped(problems))
    scan.faults.extend(_lr_beside_hr([info for own in groups.values() for info, _ in own], ndim))
    if not groups and not scan.faults:
        others = "".join(f"; {note}" for note in scan.notes)  # on the files that it holds
        scan.faults.append(f"{root}: holds no image of a format that is read ({FORMATS}){others}")
    for (rock, given_split), members in sorted(groups.items(), key=lambda group: group[0][0]):
        splits = [given_split] * len(members) if given_split else split_in_order(len(members))
        if len(members) < 3 and not given_split:
            if ndim == 3 or all(blocks_of_slices(info.slices) for info, _ in members):
                splits = [None] * len(members)
            else:
                scan.notes.append(few_sources(rock, len(members)))
        for (info, inside), split in zip(members, splits, strict=True):
            name = "_".join([rock, *filter(None, [given_split]), *inside, name_of(info.path, scan)])
            own = Path(os.path.abspath(root)).parent if info.path == root else root
            file = os.path.relpath(info.path, own)
            scan.sources.append(Source(key_of(name), rock, split, file, info))


def _lr_beside_hr(volumes, ndim):
    """Return a list of at most one fault: LR images in the folder of their HR images, by names and sizes."""
    fine = {
        (v.path.parent, HR_END.sub("", v.path.stem)): v for v in volumes if not LR_END.search(v.path.stem)
    }
    pairs = []
    for lr in volumes:
        hr = fine.get((lr.path.parent, LR_END.sub("", lr.path.stem)))
        if hr and any(
            hr.shape[-ndim:] == tuple(scale * size for size in lr.shape[-ndim:]) for scale in SCALES
        ):
            pairs.append(lr.path)
    if not pairs:
        return []
    return [
        f"{some(pairs)}: {'is' if len(pairs) == 1 else 'are'} LR of other images in the same folder, by names"
        " and sizes; move HR and LR into two folders beside each other, SOURCE/HR and SOURCE/LR"
    ]


def _parts(path, root, sides):
    """Return the parts of a path below `root`, without the folder of the side in it."""
    parts = path.relative_to(root).parts
    side = next((side for side in sides if side.hr == path or side.hr in path.parents), None)
    depth = len(side.hr.relative_to(root).parts) if side else 0
    return parts[: depth - 1] + parts[depth:] if side else parts


def _given_splits(root, images, sides, scan):
    """Return the splits that the user made as sub-folders, or none; a similar layout is a fault."""
    files = [path / "slices" if path in scan.series else path for path in images]
    paths = [Path(*_parts(path, root, sides)) for path in files]
    deeper = dict.fromkeys(
        root / path.parent for path in paths if any(map(resembles_split, path.parts[1:-1]))
    )
    if deeper:
        scan.faults.append(
            f"{some(list(deeper))}: splits are only understood above the rocks: call the folders"
            f" {root / 'train' / 'ROCK'} and so on, or give them names unlike splits if they are none"
        )
    folders = sorted(path.name for path in _folders_of(root, sides))
    if not any(map(resembles_split, folders)):
        return []
    problems = _split_problems(folders, paths)
    if problems:
        scan.faults.append(
            f"{root}: has folders called like splits, but {'; '.join(problems)}. Allowed are a folder train"
            " and, beside it, valid and test, with one image or more in each and nothing else. Rename, move"
            " or remove the others; if the folders are rocks, give them names unlike splits"
        )
        return []
    return [split for split in SPLITS if split in folders]


def _folders_of(root, sides):
    """List the folders in `root`, and for one that is a side those in it."""
    hr, lr = ([folder for side in sides for folder in (side[i], *side[i].parents)] for i in (0, 1))
    for path in root.iterdir():
        if path.is_dir() and not path.name.startswith(".") and (path in hr or path not in lr):
            yield from _folders_of(path, ()) if path in {side.hr for side in sides} else (path,)


def resembles_split(name):
    """Return whether a folder is called like a split, or nearly so."""
    return name.lower() in _SPLIT_NAMES


def _split_problems(folders, paths):
    """Return the problems of folders that are not exactly train, valid and test."""
    with_images = {path.parts[0] for path in paths}
    beside = [path.name for path in paths if len(path.parts) == 1]
    problems = [f"{name} is none of {', '.join(SPLITS)}" for name in folders if name not in SPLITS]
    problems += [f"{name} holds no image" for name in folders if name in SPLITS and name not in with_images]
    if "train" not in folders:
        problems.append("train is missing")
    if beside:
        problems.append(f"{some(beside)} {'is' if len(beside) == 1 else 'are'} beside them")
    return problems
