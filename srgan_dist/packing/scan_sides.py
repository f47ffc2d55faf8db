"""Pairs in ordinary folders: two folders beside each other whose images have the same names, and sizes in one
ratio.

train/HR/0.tif and train/LR/0.tif   or   fine/sandstone/0.tif and coarse/sandstone/0x4.tif
HR/a_HR.tif and LR/a_LR.tif         or   HR/0.png and LR/X4/0x4.png

What the two are called is free, but folders called like HR and LR that are no pairs by name are a fault.
Rocks whose slices have the same names, and by chance sizes in one ratio, are told apart by their pictures.
"""

import re
from collections import defaultdict
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from srgan_dist.data.image_files import natural, split_images
from srgan_dist.data.volume import ImageError
from srgan_dist.packing.align_sources import middle
from srgan_dist.packing.match import PAIRED, match
from srgan_dist.packing.scan_folder import resembles_split
from srgan_dist.packing.scan_pairs import HR_END, LR_END
from srgan_dist.packing.source import name_of, some
from srgan_dist.utils.scales import SCALES

_LOOKED_AT = 3  # pairs whose sizes and pictures are compared to recognise two folders

_FINE = re.compile(r"(?i)(?:.*[^a-z])?(hr|hq|gt|high|fine)([ _-]?res(olution)?)?(x\d+|[^a-z].*)?")
_X = re.compile(rf"[xX]({'|'.join(map(str, SCALES))})")
_COARSE = re.compile(r"(?i)(?:.*[^a-z])?(lr|lq|low|coarse)([ _-]?res(olution)?)?(x\d+|[^a-z].*)?")
_OF_ROCK = re.compile(  # names of rocks with such a word, e.g. high_porosity or sandstone_coarse
    r"(?i)(?=.*(high|low|fine|coarse)(?![ _-]?res)).*[a-z].*[^a-z].*[a-z].*"
)
_LABELS = re.compile(
    r"(?i)(.*(mask|label)(s|l?ed)?|(.*[^a-z])?(seg(s|mented|mentations?)?|gt|ground[ _-]?truth))([^a-z].*)?"
)


class Sides(NamedTuple):
    """Two folders that hold pairs."""

    hr: Path
    lr: Path
    ratio: int | None  # of their sizes; None where only the names of the folders say what they are

    def __str__(self):
        return f"--hr {self.hr} --lr {self.lr}" + (f" --scale {self.ratio}" if self.ratio else "")


def find_sides(root, files, ndim, scale, scan):
    """Return (the Sides among the folders below `root`, at most one for each folder above them, folders of
    other sizes of the same images).

    files: all below root. Faults of the Scan name folders of pairs where it is not clear which they are, and
    of label images; its notes say what was recognised.
    """
    images = [*split_images([path for path in files if path not in scan.series])[0], *scan.series]
    of_parent, read = defaultdict(list), cache(scan.read)
    for folder, named in _opened(_named(root, images, scan)).items():
        parent, apart = root / folder, set(named)
        for one, other, pairs in _alike(named):
            if _side_of(one) * _side_of(other) < 0:
                apart -= {one, other}
            if sides := _compared(parent, one, other, pairs, ndim, read, scan):
                of_parent[parent].append(sides)
        scan.faults.extend(_called_like_sides(parent, apart))
    chosen = [sides for item in of_parent.items() if (sides := _only_one(*item, scale, scan))]
    if not chosen:
        return [], []
    used = {folder for found in of_parent.values() for sides in found for folder in sides[:2]}
    beside = [path for path in images if used.isdisjoint([path, *path.parents])]
    if beside:
        scan.faults.append(
            f"{some(sorted(beside))}: {'is' if len(beside) == 1 else 'are'} beside the pairs of"
            f" {_listed(chosen, root)}; move them away, or give the pairs alone: {chosen[0]}"
        )
    scan.notes.append(
        f"{_listed(chosen, root)}: packed as pairs of HR and LR, as names and sizes fit; to pack two such"
        " folders as rocks, give their images different names"
    )
    left = sorted(used - {folder for sides in chosen for folder in sides[:2]})
    if left:
        scan.notes.append(f"{some(left)}: another side of the same images, left out with scale={scale}")
    return sorted(chosen), left


def _listed(chosen, root):
    return ", ".join(f"{sides.hr.relative_to(root)} with {sides.lr.relative_to(root)}" for sides in chosen)


def _named(root, images, scan):
    """Return {parent: {folder in it: {name below it: path}}} of all folders that hold images."""
    folders = defaultdict(lambda: defaultdict(dict))
    for path in images:
        parts = path.relative_to(root).parts + ("slices",) * (path in scan.series)
        for depth in range(len(parts) - 1):
            last = "slices" if path in scan.series else name_of(path, scan)
            name = "/".join((*parts[depth + 1 : -1], last))
            folders[Path(*parts[:depth])][parts[depth]].setdefault(name, path)
    return dict(sorted(folders.items()))


def _opened(folders):
    """Return such folders with LR/X2, LR/X4 ... in place of a folder called like LR that holds nothing else,
    where others are beside it.
    """
    opened = dict(folders)
    for parent, named in folders.items():
        lr = [name for name in named if _side_of(name) < 0]
        of_sizes = [name for name in lr if _holds_sizes(named[name], folders.get(parent / name))]
        if parent in opened and len(of_sizes) < len(named):
            for folder in of_sizes:
                del named[folder]
                named.update({f"{folder}/{x}": own for x, own in opened.pop(parent / folder).items()})
    return opened


def _holds_sizes(names, inner):
    """Return whether all images of a folder, `names`, are in folders X2, X4 ... inside it."""
    return inner and all(map(_X.fullmatch, inner)) and sum(map(len, inner.values())) == len(names)


def _alike(named):
    """Yield (folder, folder beside it, [(image, image of the same name)]) where half of the names, at least,
    of one of them are in the other too, if need be without x4, HR or LR behind them.
    """
    short = {
        folder: {HR_END.sub("", LR_END.sub("", name)): path for name, path in own.items()}
        for folder, own in named.items()
    }
    for one, other in combinations(sorted(folder for folder in named if not resembles_split(folder)), 2):
        if "/" in one and one.split("/")[0] == other.split("/")[0]:
            continue  # LR/X2 is not HR of LR/X4
        for names in (named, short):
            shared = sorted(names[one].keys() & names[other].keys(), key=natural)
            if shared and 2 * len(shared) >= min(len(named[one]), len(named[other])):
                yield one, other, [(names[one][name], names[other][name]) for name in shared]
                break


def _side_of(folder):
    """Return 1 for a folder that is called like HR, -1 for one like LR, 0 for others."""
    return bool(_FINE.fullmatch(folder)) - bool(_COARSE.fullmatch(folder))


def _called_like_sides(parent, folders):
    """Return the faults of folders that are called like HR and LR, and share too few names to be pairs."""
    named = sorted(folder for folder in folders if not _OF_ROCK.fullmatch(folder))
    both = [[folder for folder in named if _side_of(folder) == side] for side in (1, -1)]
    return [
        f"{parent / hr} and {parent / lr}: are called like the two sides of pairs, but fewer than half of"
        f" their images have the same names: LR of {hr}/a.tif is {lr}/a.tif, ax4.tif or a_LR.tif. Rename"
        f" them, and give --hr {parent / hr} --lr {parent / lr} instead of SOURCE; if both are rocks, call"
        " the folders otherwise"
        for hr, lr in zip(*both, strict=False)
    ]


def _compared(parent, one, other, pairs, ndim, read, scan):
    """Return the Sides that two folders in `parent` are, or None; pairs: their images of the same names."""
    chosen = [pairs[round(i * (len(pairs) - 1) / (_LOOKED_AT - 1))] for i in range(_LOOKED_AT)]
    headers = [found for pair in dict.fromkeys(chosen) if (found := _headers(pair, read))]
    ratios = {_ratio(*(volume.shape[-ndim:] for volume in pair)) for pair in headers}
    called, folders = (_side_of(one), _side_of(other)), (parent / one, parent / other)
    named = {(1, -1): folders, (-1, 1): folders[::-1]}.get(called)
    if not named and headers and all(hr.shape == lr.shape for hr, lr in headers):
        scan.labels.update(_called_like_labels(*folders) | scan.labels)
    ratio = ratios.pop() if len(ratios) == 1 else None
    if ratio is None:
        return Sides(*named, None) if named and headers else None
    hr, lr = folders if ratio > 0 else folders[::-1]
    sides = Sides(hr, lr, abs(ratio))
    if named or _show_one_place(headers, ratio > 0, abs(ratio), ndim):
        return sides
    scan.notes.append(
        f"{hr} and {lr} have images of the same names, and sizes in the ratio {abs(ratio)}, but they show"
        f" different things, so they are packed as rocks; if they are pairs: {sides}"
    )
    return None


def _called_like_labels(*folders):
    """Return {folder: fault} of the one of two folders, with the same names and sizes, that is called like
    masks.
    """
    labels = [folder for folder in folders if _LABELS.fullmatch(folder.name)]
    if len(labels) != 1:
        return {}
    scans = folders[folders[0] == labels[0]]
    return {
        labels[0]: f"{labels[0]}: is called like label images or masks, and has images of the same names and"
        f" sizes as {scans}; they are no scans, so move them out of SOURCE. If they are, call the folder"
        " otherwise"
    }


def _headers(pair, read):
    try:
        return tuple(map(read, pair))
    except ImageError:
        return None  # it will be named when it is read


def _ratio(one, other):
    """Return the ratio of two shapes, negative where the second is the larger one; None for no scale."""
    for ratio in SCALES:
        if one == tuple(ratio * size for size in other):
            return ratio
        if other == tuple(ratio * size for size in one):
            return -ratio
    return None


def _show_one_place(headers, first_is_hr, ratio, ndim):
    """Return whether one of the pairs fits, after a shift or turn if need be."""
    for pair in headers:
        hr, lr = pair if first_is_hr else pair[::-1]
        try:
            found = match(*middle(hr, lr, ratio, ndim), ratio)
        except ImageError:
            continue  # it will be named when it is packed
        if found and max(found.correlation, found.shifted, found.turned) >= PAIRED:
            return True
    return False


def _only_one(parent, found, scale, scan):
    """Return the only Sides of those in a folder, or the only ones of that scale; others are a fault."""
    fitting = found if len(found) == 1 else [sides for sides in found if sides.ratio == scale]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(map(str, found[:4]))
    scan.faults.append(
        f"{parent}: holds folders of the same images in several sizes, and it is not clear which"
        f" are pairs with scale={scale}; give one of: {listed}"
    )
    return None
