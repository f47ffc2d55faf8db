"""DeepRock-SR, its root or one of its sets.

<set>_<split>_HR/0001.png   and beside it   <set>_<split>_LR_<kind>_X<scale>/0001x<scale>.png

DeepRockSR-3D has the same layout, with volumes.
"""

import re
from collections import defaultdict
from dataclasses import replace

from srgan_dist.data.image_files import FORMATS, split_images
from srgan_dist.packing.scan_pairs import lr_name
from srgan_dist.packing.source import Source, grouped, header_or_problem, key_of, only_images, some

_HR_FOLDER = re.compile(r"(?P<set>.+)_(?P<split>train|valid|test)_HR")
_LR_FOLDER = re.compile(r"(?P<set_and_split>.+_(train|valid|test))_LR_[a-z]+_X\d+")
_END = re.compile(r"_(HR|LR)$", re.IGNORECASE)
_SIDE = re.compile(r".+_(HR|LR(_[a-z]+_X\d+)?)", re.IGNORECASE)


def is_side(folder):
    """Return whether a folder has a name like one side, HR or LR, of a set."""
    return _SIDE.fullmatch(folder.name) is not None


def find_pairs(root, sides, files, kind, scale, fits, scan):
    """Add to a Scan the image pairs of the folders `sides` below `root`, and every fault of their layout.

    files: all files below root. kind, scale: of the LR side. fits(hr, lr, problems): whether both are a pair.
    """
    hr_folders = _checked_sides(root, sides, scan.faults)
    _report_strays(root, set(sides), [*split_images(files)[0], *sorted(scan.series)], scan)
    by_folder = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    found, problems = [], {}
    for folder in _without_shuffled(hr_folders, scan.notes):
        split = _HR_FOLDER.fullmatch(folder.name)["split"]
        lr_folder = folder.with_name(f"{folder.name.removesuffix('_HR')}_LR_{kind}_X{scale}")
        if not lr_folder.is_dir():
            prefix = folder.name.removesuffix("HR") + "LR_"
            present = sorted(path.name for path in folder.parent.glob(f"{prefix}*"))
            scan.faults.append(
                f"{lr_folder}: missing (kind={kind}, scale={scale}); the set has"
                f" {', '.join(present) or 'no LR side'}"
            )
            continue
        for name, hr_path, lr_path in _pair_up(folder, lr_folder, scale, by_folder, scan):
            hr, lr = (header_or_problem(path, scan, problems) for path in (hr_path, lr_path))
            if hr and lr and fits(hr, lr, problems):
                rock, kernel = _rock_of_set(folder), "bicubic" if kind == "default" else None
                file = str(hr_path.relative_to(root))
                found.append(Source(name, rock, split, file, hr, lr, kernel))
    scan.faults.extend(grouped(problems))
    scan.sources.extend(_with_keys(found))


def _with_keys(sources):
    """Return sources named by ids with the names of keys: with the split where another one has the id too."""
    splits = defaultdict(set)
    for source in sources:
        splits[source.rock, source.name].add(source.split)
    for source in sources:
        split = [source.split] * (len(splits[source.rock, source.name]) > 1)
        yield replace(source, name=key_of("_".join([source.rock, *split, source.name])))


def _checked_sides(root, sides, faults):
    """Return the HR folders; a folder that only resembles a side of a set, or is too deep, is a fault."""
    hr_folders, deep = [], {}
    for folder in sides:
        if partner := _pair_of_rock(folder, sides):
            if partner[0] == folder:  # once for both
                faults.append(
                    f"{folder} and {partner[1].name}: look like pairs, but sides of a DeepRock-SR set are"
                    " called <set>_<split>_HR and <set>_<split>_LR_<kind>_X<scale>; give them as they are:"
                    f" --hr {folder} --lr {partner[1]} instead of SOURCE, or several rocks as SOURCE/HR/ROCK"
                    " and SOURCE/LR/ROCK"
                )
            continue
        lr_match = _LR_FOLDER.fullmatch(folder.name)
        if not lr_match and not _HR_FOLDER.fullmatch(folder.name):
            faults.append(
                f"{folder}: resembles a side of a DeepRock-SR set, which has to be called <set>_<split>_HR or"
                " <set>_<split>_LR_<kind>_X<scale>, split being train, valid or test; rename it. If it is a"
                " rock of its own, give it a name that ends neither in _HR nor _LR"
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
        f"{parent}: its sets, e.g. {folder.name}, are more than two levels below SOURCE={root};"
        f" give SOURCE={parent}, or move them"
        for parent, folder in deep.items()
    )
    return sorted(hr_folders)


def _pair_of_rock(folder, sides):
    """Return [HR, LR] of ordinary pairs, rock_HR and rock_LR, of which a folder is one; else None."""
    if _HR_FOLDER.fullmatch(folder.name) or not _END.search(folder.name):
        return None
    rock = _END.sub("", folder.name)
    ends = {
        _END.search(other.name)[1].upper(): other
        for other in sides
        if other.parent == folder.parent and _END.search(other.name) and _END.sub("", other.name) == rock
    }
    return [ends["HR"], ends["LR"]] if len(ends) == 2 else None


def _report_strays(root, sides, images, scan):
    """Name the images that belong to no set: a fault inside the folder of a side, a note anywhere else."""
    beside, inside = [], {}
    for path in images:
        side = next((folder for folder in path.parents if folder in sides), None)
        if side is None:
            beside.append(str(path.relative_to(root)))
        elif side != path.parent:
            inside.setdefault(side, []).append(path.relative_to(side))
    scan.faults.extend(
        f"{side}: {len(paths)} images are in folders inside it: {some(paths)}; a side holds its images"
        " directly, so move them up or away"
        for side, paths in inside.items()
    )
    if beside:
        scan.notes.append(
            f"{len(beside)} images below {root} belong to no set and are left out: {some(beside)}"
        )


def _without_shuffled(folders, notes):
    shuffled = [folder for folder in folders if _rock_of_set(folder) == "shuffled"]
    if not shuffled or len(shuffled) == len(folders):
        return folders
    notes.append(
        f"{_HR_FOLDER.fullmatch(shuffled[0].name)['set']} is left out: it holds the images of the other sets"
        " again. To pack it, give its own folder as SOURCE"
    )
    return [folder for folder in folders if folder not in shuffled]


def _rock_of_set(folder):
    return _HR_FOLDER.fullmatch(folder.name)["set"].removesuffix("2D").removesuffix("3D")


def _pair_up(hr_folder, lr_folder, scale, by_folder, scan):
    """Match 0001.png with 0001x4.png: [(0001, HR path, LR path)]; no partner, or two, is a fault."""
    hr_images, lr_images = (
        only_images(by_folder.get(folder, []), folder, scan) for folder in (hr_folder, lr_folder)
    )
    hr_paths = _by_name(hr_images, lambda path: path.stem, scan.faults)
    lr_paths = _by_name(lr_images, lambda path: path.stem, scan.faults)
    if not hr_paths:
        scan.faults.append(f"{hr_folder}: holds no image of a format that is read ({FORMATS})")
    pairs = []
    for name, hr_path in hr_paths.items():
        own = lr_name(name, lr_paths, scale)
        if own is None:
            scan.faults.append(
                f"{hr_path}: has no LR partner; expected {lr_folder / (name + f'x{scale}.png')} or {name}.png"
            )
        else:
            pairs.append((name, hr_path, lr_paths.pop(own)))
    scan.faults.extend(f"{path}: has no HR partner in {hr_folder}" for path in lr_paths.values())
    return pairs


def _by_name(paths, name_of, faults):
    named = {}
    for path in paths:
        other = named.setdefault(name_of(path), path)
        if other is not path:
            faults.append(f"{path}: is the same image as {other}; remove one of them")
    return named
