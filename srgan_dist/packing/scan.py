"""Finding the files to pack: images or image pairs, with rock and split of each, from their headers alone.

Three layouts are read: DeepRock-SR (`scan_deeprock.py`), any folder of HR images (`scan_folder.py`), whose
LR side is then made from them, and such a folder beside another of LR images with the same names
(`scan_pairs.py`), which are given as two, or recognised in one (`scan_sides.py`). A folder that only
resembles one of them is a fault. No pixel is decoded, but for a few where folders look like pairs, so all
faults of a source are reported before anything is written.
"""

import os
from functools import partial
from itertools import islice
from pathlib import Path

from srgan_dist.data.image_files import (
    belongs_to_series,
    is_hidden,
    is_slice,
    is_store,
    natural,
    read_header,
    read_info,
)
from srgan_dist.data.manifest import ROCK_RULE, is_rock_name
from srgan_dist.packing.scan_deeprock import find_pairs, is_side
from srgan_dist.packing.scan_folder import find_images
from srgan_dist.packing.scan_pairs import with_partners
from srgan_dist.packing.scan_sides import Sides, find_sides
from srgan_dist.packing.source import Scan, pair_fits
from srgan_dist.utils.errors import UserError


def find_sources(source, kind, scale, ndim=2, aligned=False, raw=None, any_dtype=False, two_dtypes=False):
    """Return the Scan of `source`, a folder or a file of volumes, or of two such, (HR, LR); faults name files
    and the way out.

    kind, scale: of the LR side that is paired with HR; ndim: 3 pairs whole volumes, 2 their slices; aligned:
    pairs will be registered, so that their sizes may differ. raw: RawOptions of voxels without a header.
    any_dtype: values will be mapped to grey levels by a window; two_dtypes: 8 bits will be stored as 16.
    """
    fits = partial(
        pair_fits, scale=scale, ndim=ndim, aligned=aligned, two_dtypes=two_dtypes, windowed=any_dtype
    )
    scan = Scan(read=partial(read_header if any_dtype else read_info, raw=raw))
    if isinstance(source, tuple):
        _find_in_two(Sides(*map(Path, source), scale), ndim, fits, scan)
    else:
        _find_in(Path(source), kind, scale, ndim, fits, scan)
    for rock in sorted({source.rock for source in scan.sources}):
        if not is_rock_name(rock):
            scan.faults.append(f"{rock!r}: {ROCK_RULE}; rename its folder")
    return scan


def _find_in(root, kind, scale, ndim, fits, scan):
    _check_root(root, "SOURCE")
    absolute = Path(os.path.abspath(root))
    if root.is_dir() and is_side(absolute):
        raise UserError(
            f"SOURCE={root} is called like one side of a DeepRock-SR set; give the folder that holds both,"
            f" {absolute.parent}, or, to have an LR side made, a folder whose name ends neither in _HR nor"
            " _LR"
        )
    folders, files = _walk(root, ndim, scan)
    sides = [folder for folder in folders if is_side(folder)]
    if sides:
        find_pairs(root, sides, files, kind, scale, fits, scan)
    else:
        _find_in_one(root, files, ndim, scale, fits, scan)


def _find_in_one(root, files, ndim, scale, fits, scan):
    """Find HR images, or pairs in folders beside each other."""
    pairs, left = ([], []) if _is_volume(root, scan) else find_sides(root, files, ndim, scale, scan)
    without = [*left, *(sides.lr for sides in pairs)]
    find_images(root, [path for path in files if not _is_below(path, without)], ndim, scan, pairs)
    sources = []
    for sides in pairs:
        own = [source for source in scan.sources if _is_below(source.hr.path, [sides.hr])]
        of_both = [[path for path in files if _is_below(path, [side])] for side in sides[:2]]
        sources += with_partners(own, sides, of_both, scale, fits, scan)
    if pairs:
        scan.sources[:] = sources


def _is_below(path, folders):
    return any(folder == path or folder in path.parents for folder in folders)


def _find_in_two(sides, ndim, fits, scan):
    hr_root, lr_root, scale = sides
    for root, option in ((hr_root, "--hr"), (lr_root, "--lr")):
        _check_root(root, option)
    _, hr_files = _walk(hr_root, ndim, scan)
    _, lr_files = _walk(lr_root, ndim, scan)
    kinds = ["one volume" if _is_volume(root, scan) else "a folder of others" for root in (hr_root, lr_root)]
    if len(set(kinds)) > 1:
        raise UserError(
            f"--hr={hr_root} is {kinds[0]}, --lr={lr_root} is {kinds[1]}; give two volumes, or two folders"
        )
    find_images(hr_root, hr_files, ndim, scan)
    scan.sources[:] = with_partners(scan.sources, sides, (hr_files, lr_files), scale, fits, scan)


def _check_root(root, option):
    if not os.path.lexists(root):
        raise UserError(f"{option}={root} does not exist")
    if not (root.is_dir() or root.is_file()):
        raise UserError(f"{option}={root} is a broken link or no regular file; give a folder or a volume")


def _is_volume(root, scan):
    return root.is_file() or is_store(root) or root in scan.series


def _walk(root, ndim, scan):
    """List the folders and files below `root` in natural order; links are followed, hidden names left out. A
    folder that is a volume counts as a file: a Zarr store, or of volumes (ndim=3) a folder of slices. A root
    that is a volume is its own only file.
    """
    if _is_volume(root, scan):
        return [], [root]
    folders, files, reached = [], [], {}

    def unreadable(error):
        scan.faults.append(
            f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions or move it away"
        )

    for parent, names, file_names in os.walk(root, onerror=unreadable, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        other = reached.setdefault(os.path.realpath(parent), parent)
        if other != parent:
            names.clear()
            _report_link(parent, other, scan)
            continue
        folders.append(Path(parent))
        stores = [name for name in names if is_store(Path(parent, name))]
        names[:] = [name for name in names if name not in stores]
        found = [Path(parent, name) for name in (*file_names, *stores) if not is_hidden(name)]
        side = Path(parent) != root and is_side(Path(parent))  # --hr and --lr may be called like one
        if ndim == 3 and not side and _holds_slices(found):
            scan.series.add(Path(parent))
            found = [Path(parent), *(path for path in found if not belongs_to_series(path))]
        files += found
    for path in [path for path in files if not (path.is_file() or is_store(path) or path in scan.series)]:
        files.remove(path)
        scan.faults.append(f"{path}: is a broken link or no regular file; restore or remove it")
    return sorted(folders[1:], key=natural), sorted(files, key=natural)


def _holds_slices(files):
    """Return whether two of the files, or more, are slices; no further header is read."""
    return len(list(islice(filter(is_slice, files), 2))) == 2


def _report_link(folder, other, scan):
    if folder.startswith(os.path.join(other, "")):
        scan.notes.append(f"{folder}: is a link to a folder above it, {other}, and is not followed")
    else:
        scan.faults.append(
            f"{folder}: is the same folder as {other}, and its images would count twice; remove the link"
        )
