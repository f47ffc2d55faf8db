"""What to pack: finds images or image pairs, checks their headers, and decides rock, split, key and tile of each sample.

Two kinds of source are understood:

- DeepRock-SR, its root or one of its sets: `<set>_<split>_HR/0001.png` beside `<set>_<split>_LR_<kind>_X<scale>/0001x4.png`;
- any folder of HR images, one sub-folder per rock, optionally below `train`, `valid` and `test`; the LR side is
  then made from them.

What only resembles one of them is a fault: a misspelt split would turn test images into training images.
Every decision is taken from headers alone, so that all faults of a source can be told before anything is written.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from srgan_dist.data.degradation import draw_kernel
from srgan_dist.data.image_files import (
    ImageError,
    ImageInfo,
    is_hidden,
    is_image,
    left_out,
    natural,
    read_info,
)
from srgan_dist.data.index import SPLITS
from srgan_dist.data.sample import key_problem
from srgan_dist.utils.errors import UserError

_HR_FOLDER = re.compile(r"(?P<set>.+)_(?P<split>train|valid|test)_HR")
_LR_FOLDER = re.compile(r"(?P<set_and_split>.+_(train|valid|test))_LR_[a-z]+_X\d+")
_LIKE_A_SIDE = re.compile(r".+_(HR|LR(_[a-z]+_X\d+)?)", re.IGNORECASE)
_LIKE_A_SPLIT = {"train", "training", "valid", "validation", "val", "dev", "test", "testing"}


@dataclass(frozen=True)
class Source:
    """One HR file, with its LR file where there is one; all its slices and tiles belong to one split."""

    name: str  # how the keys of its samples begin
    rock: str
    split: str
    file: str  # HR path below the source folder
    hr: ImageInfo
    lr: ImageInfo | None = None


@dataclass(frozen=True)
class Sample:
    """One HR/LR pair to be packed: a tile of a page of a source. Lengths in HR pixels."""

    key: str
    source: int  # position in the list of sources
    page: int
    top: int
    left: int
    height: int
    width: int
    kernel: str | None  # None: the LR image exists and its kernel is not recorded


@dataclass(frozen=True)
class Findings:
    """What a source folder holds, with everything that is wrong (`faults`) or worth saying (`notes`)."""

    sources: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def find_sources(root, kind, scale):
    """List the sources below `root`; faults name files and say what to do."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"SOURCE={root} is not a folder")
    place = Path(os.path.abspath(root))
    if _LIKE_A_SIDE.fullmatch(place.name):
        raise UserError(
            f"SOURCE={root} is called like one side of a DeepRock-SR set; give the folder that holds both,"
            f" {place.parent}, or, to have an LR side made, a folder whose name ends neither in _HR nor _LR"
        )
    found = Findings()
    folders, files = _walk(root, found)
    sides = [folder for folder in folders if _LIKE_A_SIDE.fullmatch(folder.name)]
    if sides:
        _find_pairs(root, sides, files, kind, scale, found)
    else:
        _find_images(root, files, found)
    return found


def _walk(root, found):
    """List the folders below `root` and all files, in natural order; links are followed, hidden names left out."""
    folders, files, reached = [], [], {}

    def unreadable(error):
        found.faults.append(
            f"{error.filename}: cannot be listed ({error.strerror}); mend its permissions or move it away"
        )

    for parent, names, file_names in os.walk(root, onerror=unreadable, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        other = reached.setdefault(os.path.realpath(parent), parent)
        if other != parent:
            names.clear()
            _tell_of_link(parent, other, found)
            continue
        folders.append(Path(parent))
        files += [Path(parent, name) for name in file_names if not is_hidden(name)]
    for path in [path for path in files if not path.is_file()]:
        files.remove(path)
        found.faults.append(f"{path}: is a broken link or no regular file; mend or remove it")
    return sorted(folders[1:], key=natural), sorted(files, key=natural)


def _tell_of_link(folder, other, found):
    if folder.startswith(os.path.join(other, "")):
        found.notes.append(f"{folder}: is a link to a folder that it lies in, {other}, and is not followed")
    else:
        found.faults.append(
            f"{folder}: is the same folder as {other}, and its images would count twice; remove the link"
        )


def _sorted_out(files, folder, found):
    """Return those files that are images; name the others in a note."""
    found.notes.extend(left_out(folder, [path.name for path in files if not is_image(path)]))
    return [path for path in files if is_image(path)]


def _info(path, problems):
    try:
        return read_info(path)
    except ImageError as error:
        problems.setdefault(str(error).removeprefix(f"{path}: "), []).append(path)
        return None


def _grouped(problems):
    """Turn {problem: paths} into one fault per problem."""
    return [f"{_some(paths)}: {problem}" for problem, paths in problems.items()]


def _some(paths):
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


# DeepRock-SR


def _find_pairs(root, sides, files, kind, scale, found):
    hr_folders = _checked_sides(root, sides, found.faults)
    _tell_of_strays(root, set(sides), [path for path in files if is_image(path)], found)
    held = {}
    for path in files:
        held.setdefault(path.parent, []).append(path)
    problems = {}
    for folder in _without_shuffled(hr_folders, found.notes):
        split = _HR_FOLDER.fullmatch(folder.name)["split"]
        lr_folder = folder.with_name(f"{folder.name.removesuffix('_HR')}_LR_{kind}_X{scale}")
        if not lr_folder.is_dir():
            prefix = folder.name.removesuffix("HR") + "LR_"
            present = sorted(path.name for path in folder.parent.glob(f"{prefix}*"))
            found.faults.append(
                f"{lr_folder}: missing (kind={kind}, scale={scale}); the set has {', '.join(present) or 'no LR side'}"
            )
            continue
        for name, hr_path, lr_path in _pair_up(folder, lr_folder, scale, held, found):
            hr, lr = _info(hr_path, problems), _info(lr_path, problems)
            if hr and lr and _pair_fits(hr, lr, scale, problems):
                rock = _rock_of_set(folder)
                found.sources.append(
                    Source(f"{rock}_{name}", rock, split, str(hr_path.relative_to(root)), hr, lr)
                )
    found.faults.extend(_grouped(problems))


def _checked_sides(root, sides, faults):
    """Return the HR folders; what only looks like a side of a set, or lies too deep, is a fault."""
    hr_folders, deep = [], {}
    for folder in sides:
        lr_match = _LR_FOLDER.fullmatch(folder.name)
        if not lr_match and not _HR_FOLDER.fullmatch(folder.name):
            faults.append(
                f"{folder}: resembles a side of a DeepRock-SR set, which has to be called <set>_<split>_HR or"
                " <set>_<split>_LR_<kind>_X<scale>, split being train, valid or test; rename it. If it is a rock"
                " of its own, give it a name that ends neither in _HR nor _LR"
            )
        elif len(folder.relative_to(root).parts) > 3:
            deep.setdefault(folder.parent, folder)
        elif lr_match and not folder.with_name(f"{lr_match['set_and_split']}_HR").is_dir():
            faults.append(
                f"{folder}: has no {lr_match['set_and_split']}_HR beside it; add that, or move this away"
            )
        elif not lr_match:
            hr_folders.append(folder)
    faults.extend(
        f"{parent}: its sets, e.g. {folder.name}, lie more than two levels below SOURCE={root};"
        f" give SOURCE={parent}, or move them"
        for parent, folder in deep.items()
    )
    return sorted(hr_folders)


def _tell_of_strays(root, sides, images, found):
    """Name the images that belong to no set: a fault inside the folder of a side, a note anywhere else."""
    beside, inside = [], {}
    for path in images:
        side = next((folder for folder in path.parents if folder in sides), None)
        if side is None:
            beside.append(str(path.relative_to(root)))
        elif side != path.parent:
            inside.setdefault(side, []).append(path.relative_to(side))
    found.faults.extend(
        f"{side}: {len(paths)} images lie in folders inside it: {_some(paths)}; a side holds its images"
        " directly, so move them up or away"
        for side, paths in inside.items()
    )
    if beside:
        found.notes.append(
            f"{len(beside)} images below {root} belong to no set and are left out: {_some(beside)}"
        )


def _without_shuffled(folders, notes):
    rocks = {_rock_of_set(folder) for folder in folders}
    if len(rocks) == 1 or "shuffled" not in rocks:
        return folders
    notes.append(
        "shuffled2D is left out: it holds the images of the other sets again."
        " To pack it, give its own folder as SOURCE"
    )
    return [folder for folder in folders if _rock_of_set(folder) != "shuffled"]


def _rock_of_set(folder):
    return _HR_FOLDER.fullmatch(folder.name)["set"].removesuffix("2D")


def _pair_up(hr_folder, lr_folder, scale, held, found):
    """Match 0001.png with 0001x4.png; what has no partner, or two, is a fault."""
    hr_images, lr_images = (
        _sorted_out(held.get(folder, []), folder, found) for folder in (hr_folder, lr_folder)
    )
    hr_paths = _by_name(hr_images, lambda path: path.stem, found.faults)
    lr_paths = _by_name(lr_images, lambda path: _lr_id(path, scale), found.faults)
    if not hr_paths:
        found.faults.append(
            f"{hr_folder}: holds no image (3-D sets of .mat files are not read; export slices as TIFF or NPY)"
        )
    pairs = []
    for name, hr_path in hr_paths.items():
        lr_path = lr_paths.pop(name, None)
        if lr_path is None:
            found.faults.append(
                f"{hr_path}: has no LR partner; expected {lr_folder / (name + f'x{scale}.png')}"
            )
        else:
            pairs.append((name, hr_path, lr_path))
    found.faults.extend(f"{path}: has no HR partner in {hr_folder}" for path in lr_paths.values())
    return pairs


def _by_name(paths, name_of, faults):
    named = {}
    for path in paths:
        other = named.setdefault(name_of(path), path)
        if other is not path:
            faults.append(f"{path}: stands for the same image as {other}; remove one of them")
    return named


def _lr_id(path, scale):
    return (
        path.stem.removesuffix(f"x{scale}")
        if path.stem.endswith(f"x{scale}")
        else f"{path.stem} (no x{scale})"
    )


def _pair_fits(hr, lr, scale, problems):
    misfits = []
    if (hr.height, hr.width) != (scale * lr.height, scale * lr.width):
        misfits.append(
            f"is {hr.height}x{hr.width}, which is not scale={scale} times {lr.height}x{lr.width}"
            f" of its partner in {lr.path.parent}"
        )
    if hr.pages != lr.pages:
        misfits.append(
            f"has {hr.pages} pages, its partner in {lr.path.parent} has {lr.pages};"
            " pairs are slices of one plane"
        )
    if hr.dtype != lr.dtype:
        misfits.append(
            f"is {hr.dtype}, its partner in {lr.path.parent} is {lr.dtype}; both sides need one pixel type"
        )
    for misfit in misfits:
        problems.setdefault(misfit, []).append(hr.path)
    return not misfits


# Any folder of HR images


def _find_images(root, files, found):
    images, problems = _sorted_out(files, root, found), {}
    given = _given_splits(root, images, found.faults)
    if given:
        found.notes.append(f"the splits are those of the folders {', '.join(given)}")
    groups = {}  # (rock, given split or None) -> [(header, names of folders below the rock's)] in natural order
    for path in images:
        split, *folders = [*([] if given else [None]), *path.relative_to(root).parts[:-1]]
        rock, *inside = folders or [root.resolve().name]
        if info := _info(path, problems):
            groups.setdefault((rock, split), []).append((info, inside))
    found.faults.extend(_grouped(problems))
    if not groups and not found.faults:
        found.faults.append(f"{root}: holds no image that is read here (PNG, TIFF, NPY)")
    for (rock, given_split), members in sorted(groups.items(), key=lambda group: group[0][0]):
        splits = [given_split] * len(members) if given_split else split_in_order(len(members))
        if len(set(splits)) < 3 and not given_split:
            found.notes.append(
                f"{rock}: {len(members)} source image{'s' * (len(members) != 1)} only, so there is no"
                f" {'test' if len(members) == 2 else 'valid and no test'} split of it"
            )
        for (info, inside), split in zip(members, splits, strict=True):
            name = "_".join([rock, *filter(None, [given_split]), *inside, info.path.stem])
            file = str(info.path.relative_to(root))
            found.sources.append(Source(re.sub(r"[^A-Za-z0-9_-]", "_", name), rock, split, file, info))


def _given_splits(root, images, faults):
    """Return the splits that the user made as sub-folders, or none; a layout that only resembles this is a fault."""
    paths = [path.relative_to(root) for path in images]
    deeper = dict.fromkeys(root / path.parent for path in paths if any(map(_like_a_split, path.parts[1:-1])))
    if deeper:
        faults.append(
            f"{_some(list(deeper))}: splits are only understood above the rocks: call the folders"
            f" {root / 'train' / 'ROCK'} and so on, or give them names unlike splits if they are none"
        )
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any(map(_like_a_split, folders)):
        return []
    problems = _split_problems(folders, paths)
    if problems:
        faults.append(
            f"{root}: has folders called like splits, but {'; '.join(problems)}. Allowed are a folder train"
            " and, beside it, valid and test, with one image or more in each and nothing else. Rename, move or"
            " remove what differs; if the folders are rocks, give them names unlike splits"
        )
        return []
    return [split for split in SPLITS if split in folders]


def _like_a_split(name):
    return name.lower() in _LIKE_A_SPLIT


def _split_problems(folders, paths):
    """Say what keeps the folders of a source from being train, valid and test."""
    with_images = {path.parts[0] for path in paths}
    beside = [path.name for path in paths if len(path.parts) == 1]
    problems = [f"{name} is none of {', '.join(SPLITS)}" for name in folders if name not in SPLITS]
    problems += [f"{name} holds no image" for name in folders if name in SPLITS and name not in with_images]
    if "train" not in folders:
        problems.append("train is missing")
    if beside:
        problems.append(f"{_some(beside)} lie{'s' * (len(beside) == 1)} beside them")
    return problems


def split_in_order(count):
    """Assign `count` images of one rock to splits, 8:1:1 in their order, so that neighbours mostly stay together.

    From three images on each split has one at least; two give train and valid, one gives train.
    """
    if count < 3:
        return list(SPLITS[:count])
    tenth = max(1, (count + 5) // 10)
    return ["train"] * (count - 2 * tenth) + ["valid"] * tenth + ["test"] * tenth


# Samples


def tile_starts(size, tile, scale):
    """Cut one axis of `size` pixels into tiles: (length of a tile, first pixel of each).

    Tiles are `tile` long, evenly spaced, and overlap rather than leave a remainder. An axis that is shorter than
    that is one tile; only what exceeds a multiple of `scale` (less than `scale` pixels) is left out at its ends.
    """
    whole = size - size % scale
    if whole <= tile:
        return whole, [(size - whole) // 2]
    count = -(-size // tile)
    return tile, [round(i * (size - tile) / (count - 1)) for i in range(count)]


def list_samples(sources, kind, scale, tile, seed):
    """Cut every page of every source into samples, in the order of the sources."""
    return [
        sample
        for position, source in enumerate(sources)
        for sample in (
            _pair_samples(position, source, kind)
            if source.lr
            else _tile_samples(position, source, kind, scale, tile, seed)
        )
    ]


def _pair_samples(position, source, kind):
    kernel = "bicubic" if kind == "default" else None
    return [
        Sample(source.name + suffix, position, page, 0, 0, source.hr.height, source.hr.width, kernel)
        for page, suffix in enumerate(_page_suffixes(source.hr.pages))
    ]


def _tile_samples(position, source, kind, scale, tile, seed):
    height, tops = tile_starts(source.hr.height, tile, scale)
    width, lefts = tile_starts(source.hr.width, tile, scale)
    samples = []
    for page, page_suffix in enumerate(_page_suffixes(source.hr.pages)):
        for top in tops:
            for left in lefts:
                tile_suffix = f"_y{top:04d}_x{left:04d}" if len(tops) * len(lefts) > 1 else ""
                key = source.name + page_suffix + tile_suffix
                kernel = draw_kernel(kind, seed, key)
                samples.append(Sample(key, position, page, top, left, height, width, kernel))
    return samples


def _page_suffixes(pages):
    digits = max(4, len(str(pages - 1)))
    return [f"_p{page:0{digits}d}" for page in range(pages)] if pages > 1 else [""]


def check_samples(sources, samples, scale, crop, dtype):
    """Return the faults that only show over the whole set: mixed pixel types, small images, names."""
    faults = []
    dtypes = {source.hr.dtype: source.hr.path for source in sources}
    if len(dtypes) > 1 and dtype is None:
        (one, first), (other, second) = list(dtypes.items())[:2]
        faults.append(
            f"{first}: is {one} and {second} is {other}; one set holds one pixel type."
            " Use --dtype uint16 to store 8-bit values times 257"
        )
    faults += _small_images(sources, scale, crop)
    faults += [
        f"rock {rock!r}: its name does not print; rename the folder"
        for rock in sorted({source.rock for source in sources})
        if not rock.isprintable()
    ]
    for sample in samples:
        if problem := key_problem(sample.key):
            faults.append(f"{sources[sample.source].hr.path}: {problem}; rename the file")
    return list(dict.fromkeys(faults)) + _collisions(sources, samples)


def _small_images(sources, scale, crop):
    problems = {}
    for source in sources:
        height, width = source.hr.height, source.hr.width
        if min(height, width) < crop:
            problem = (
                f"{height}x{width} pixels are less than crop={crop}, the HR square that training cuts"
                f" ({crop // scale} LR pixels at scale={scale}); leave the image out or choose a smaller --crop"
            )
            problems.setdefault(problem, []).append(source.hr.path)
    return _grouped(problems)


def _collisions(sources, samples):
    seen, faults = {}, []
    for sample in samples:
        path = sources[sample.source].hr.path
        other = seen.setdefault(sample.key.lower(), path)
        if other is not path:
            faults.append(f"{path}: has the same key {sample.key!r} as {other}; rename one of them")
    return faults


def stored_dtype(sources, dtype):
    """Return the pixel type of the set: the one asked for, else that of the images."""
    return np.dtype(dtype) if dtype else sources[0].hr.dtype
