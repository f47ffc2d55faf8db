"""What to pack: finds images or image pairs, checks their headers, and decides rock, split, key and tile of each sample.

Two kinds of source are understood:

- DeepRock-SR, its root or one of its sets: `<set>_<split>_HR/0001.png` beside `<set>_<split>_LR_<kind>_X<scale>/0001x4.png`;
- any folder of HR images, one sub-folder per rock, optionally below `train`, `valid` and `test`; the LR side is
  then made from them.

Every decision is taken from headers alone, so that all faults of a source can be told before anything is written.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srgan_dist.data.degradation import draw_kernel
from srgan_dist.data.images import ImageError, ImageInfo, is_image, read_info
from srgan_dist.data.index import SPLITS
from srgan_dist.data.sample import key_problem
from srgan_dist.errors import UserError

_HR_FOLDER = re.compile(r"(?P<set>.+)_(?P<split>train|valid|test)_HR")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


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

    sources: list
    faults: list
    notes: list


def find_sources(root, kind, scale):
    """List the sources below `root`; faults name files and say what to do."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"SOURCE={root} is not a folder")
    folders = _deeprock_folders(root)
    if folders:
        return _find_pairs(root, folders, kind, scale)
    return _find_images(root)


# DeepRock-SR

def _deeprock_folders(root):
    """Return the HR folders of DeepRock-SR sets at `root` or at most two levels below it."""
    candidates = [path for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern)]
    return sorted(path for path in candidates if path.is_dir() and _HR_FOLDER.fullmatch(path.name))


def _find_pairs(root, folders, kind, scale):
    sources, faults, notes = [], [], []
    rocks = {_rock_of_set(folder) for folder in folders}
    if len(rocks) > 1 and "shuffled" in rocks:
        folders = [folder for folder in folders if _rock_of_set(folder) != "shuffled"]
        notes.append("shuffled2D is left out: it holds the images of the other sets again."
                     " To pack it, give its own folder as SOURCE")
    for folder in folders:
        split = _HR_FOLDER.fullmatch(folder.name)["split"]
        lr_folder = folder.with_name(f"{folder.name.removesuffix('_HR')}_LR_{kind}_X{scale}")
        if not lr_folder.is_dir():
            prefix = folder.name.removesuffix("HR") + "LR_"
            present = sorted(path.name for path in folder.parent.glob(f"{prefix}*"))
            faults.append(f"{lr_folder}: missing (kind={kind}, scale={scale}); the set has {', '.join(present) or 'no LR side'}")
            continue
        pairs = _pair_up(folder, lr_folder, scale, faults, notes)
        for name, hr_path, lr_path in pairs:
            hr, lr = _info(hr_path, faults), _info(lr_path, faults)
            if hr and lr and _pair_fits(hr, lr, scale, faults):
                rock = _rock_of_set(folder)
                sources.append(Source(f"{rock}_{name}", rock, split, str(hr_path.relative_to(root)), hr, lr))
    return Findings(sources, faults, notes)


def _rock_of_set(folder):
    return _HR_FOLDER.fullmatch(folder.name)["set"].removesuffix("2D")


def _pair_up(hr_folder, lr_folder, scale, faults, notes):
    """Match 0001.png with 0001x4.png; what has no partner is a fault."""
    hr_paths = _images_in(hr_folder, notes)
    lr_paths = {_lr_id(path, scale): path for path in _images_in(lr_folder, notes)}
    if not hr_paths:
        faults.append(f"{hr_folder}: holds no image (3-D sets of .mat files are not read; export slices as TIFF or NPY)")
    pairs = []
    for hr_path in hr_paths:
        lr_path = lr_paths.pop(hr_path.stem, None)
        if lr_path is None:
            faults.append(f"{hr_path}: has no LR partner; expected {lr_folder / (hr_path.stem + f'x{scale}.png')}")
        else:
            pairs.append((hr_path.stem, hr_path, lr_path))
    faults.extend(f"{path}: has no HR partner in {hr_folder}" for path in lr_paths.values())
    return pairs


def _lr_id(path, scale):
    return path.stem.removesuffix(f"x{scale}") if path.stem.endswith(f"x{scale}") else f"{path.stem} (no x{scale})"


def _pair_fits(hr, lr, scale, faults):
    before = len(faults)
    if (hr.height, hr.width) != (scale * lr.height, scale * lr.width):
        faults.append(f"{hr.path}: is {hr.height}x{hr.width}, which is not scale={scale} times"
                      f" {lr.height}x{lr.width} of {lr.path}")
    if hr.pages != lr.pages:
        faults.append(f"{hr.path}: has {hr.pages} pages, {lr.path} has {lr.pages}; pairs are slices of one plane")
    if hr.dtype != lr.dtype:
        faults.append(f"{hr.path}: is {hr.dtype}, {lr.path} is {lr.dtype}; both sides need one pixel type")
    return len(faults) == before


# Any folder of HR images

def _find_images(root):
    faults, notes = [], []
    given = _given_splits(root)
    if given:
        notes.append(f"the splits are those of the folders {', '.join(given)}")
    groups = {}  # (rock, given split or None) -> [(header, names of folders below the rock's)] in natural order
    for path in _images_in(root, notes, recursive=True):
        split, *folders = [*([] if given else [None]), *path.relative_to(root).parts[:-1]]
        rock, *inside = folders or [root.resolve().name]
        if info := _info(path, faults):
            groups.setdefault((rock, split), []).append((info, inside))
    if not groups and not faults:
        faults.append(f"{root}: holds no image that is read here (PNG, TIFF, NPY)")
    sources = []
    for (rock, given_split), members in sorted(groups.items(), key=lambda group: group[0][0]):
        splits = [given_split] * len(members) if given_split else split_in_order(len(members))
        if len(set(splits)) < 3 and not given_split:
            notes.append(f"{rock}: {len(members)} source image{'s' * (len(members) != 1)} only, so there is no"
                         f" {'test' if len(members) == 2 else 'valid and no test'} split of it")
        for (info, inside), split in zip(members, splits, strict=True):
            name = "_".join([rock, *filter(None, [given_split]), *inside, info.path.stem])
            file = str(info.path.relative_to(root))
            sources.append(Source(re.sub(r"[^A-Za-z0-9_-]", "_", name), rock, split, file, info))
    return Findings(sources, faults, notes)


def _given_splits(root):
    """Return the splits that the user made: the sub-folders, if they are called train and perhaps valid and test."""
    folders = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    images = any(path.is_file() and is_image(path) for path in root.iterdir())
    return [split for split in SPLITS if split in folders] if "train" in folders and set(folders) <= set(SPLITS) and not images else []


def split_in_order(count):
    """Assign `count` images of one rock to splits, 8:1:1 in their order, so that neighbours mostly stay together.

    From three images on each split has one at least; two give train and valid, one gives train.
    """
    if count < 3:
        return list(SPLITS[:count])
    tenth = max(1, (count + 5) // 10)
    return ["train"] * (count - 2 * tenth) + ["valid"] * tenth + ["test"] * tenth


def _images_in(folder, notes, recursive=False):
    """Return the image files of a folder in natural order (slice_2 before slice_10); name the other files in notes."""
    images, others = [], []
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir(), key=_natural):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.is_dir() or path.name.lower() in _SYSTEM_FILES:
            continue
        (images if is_image(path) else others).append(path)
    if others:
        names = ", ".join(path.name for path in others[:5]) + (", ..." if len(others) > 5 else "")
        notes.append(f"{folder}: {len(others)} files are not PNG, TIFF or NPY and are left out: {names}")
    return images


def _natural(path):
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _info(path, faults):
    try:
        return read_info(path)
    except ImageError as error:
        faults.append(str(error))
        return None


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
        for sample in (_pair_samples(position, source, kind) if source.lr
                       else _tile_samples(position, source, kind, scale, tile, seed))
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


def check_samples(sources, samples, crop, dtype):
    """Return the faults that only show over the whole set: mixed pixel types, small images, keys."""
    faults = []
    dtypes = {source.hr.dtype: source.hr.path for source in sources}
    if len(dtypes) > 1 and dtype is None:
        (one, first), (other, second) = list(dtypes.items())[:2]
        faults.append(f"{first}: is {one} and {second} is {other}; one set holds one pixel type."
                      " Use --dtype uint16 to store 8-bit values times 257")
    for sample in samples:
        path = sources[sample.source].hr.path
        if min(sample.height, sample.width) < crop:
            faults.append(f"{path}: {sample.height}x{sample.width} pixels are less than crop={crop}, the HR square that"
                          " training cuts; leave the image out or choose a smaller --crop")
        if problem := key_problem(sample.key):
            faults.append(f"{path}: {problem}; rename the file")
    return list(dict.fromkeys(faults)) + _collisions(sources, samples)


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
