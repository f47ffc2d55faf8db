"""A folder of numbered slices, one image of one page each, as one volume."""

import contextlib
import re
from pathlib import Path

from srgan_dist.data.formats.bmp import open_bmp
from srgan_dist.data.formats.header import sizes_um, text_of
from srgan_dist.data.formats.png import open_png
from srgan_dist.data.formats.tiff import open_tiff
from srgan_dist.data.volume import ImageError, Slices, Volume, failures_named
from srgan_dist.utils.files import open_regular

SLICE_READERS = {".png": open_png, ".tif": open_tiff, ".tiff": open_tiff, ".bmp": open_bmp}

_PREVIEW = "_spr.bmp"  # Bruker's picture of the place of the slices, beside them
_PIXEL_SIZE = r"^[ \t]*{}[ \t]*\(um\)[ \t]*=[ \t]*([0-9.]+(?:[eE][-+]?[0-9]+)?)"
_STEP = re.compile(r"^[ \t]*Section to Section Step[ \t]*=[ \t]*([0-9]+)", re.MULTILINE)


def open_slices(folder):
    """Read the headers of all slices of a folder, in the order of their numbers: one Volume.

    The names differ in one number, which counts up by one. Files of other formats, sub-folders, and Bruker's
    `_spr.bmp` are no slices; Bruker's `.log` gives the voxel size, else it is that of the first slice. Raises
    ImageError for a number that is missing or twice, and for a slice that differs from the first.
    """
    paths = _in_order(folder)
    kinds = {path.suffix.lower(): path for path in paths}
    if len({SLICE_READERS[kind] for kind in kinds}) > 1:
        raise ImageError(
            folder,
            f"holds slices of several formats, {', '.join(path.name for path in kinds.values())}; leave those"
            " of one there",
        )
    opened = SLICE_READERS[paths[0].suffix.lower()]
    first = _slice(paths[0], opened)
    for path in paths:
        _check_alike(_slice(path, opened), first)
    sizes = _logged_sizes_um(folder) or first.voxel_sizes_um
    return Volume(
        folder,
        (len(paths), *first.shape[1:]),
        first.dtype,
        _voxels,
        sizes,
        first.tags,
        (opened, paths, first),
    )


@contextlib.contextmanager
def _voxels(volume):
    opened, paths, first = volume.layout

    def decoded(number):
        page = _slice(paths[number], opened)
        _check_alike(page, first)
        return page.read((0, 0, 0), page.shape)[0]

    yield Slices(volume, decoded)


def _slice(path, opened):
    with failures_named(path):
        open_regular(path).close()  # opening a pipe would block
        return opened(path)


def _check_alike(page, first):
    if page.slices != 1:
        raise ImageError(page.path, f"holds {page.slices} pages; a slice of a folder is a file of one page")
    if (page.shape, page.dtype) != (first.shape, first.dtype):
        own, others = (f"{volume.height}x{volume.width} {volume.dtype}" for volume in (page, first))
        raise ImageError(page.path, f"is {own}, {first.path.name} is {others}; all slices must be alike")
    if page.tags.get("orientation") != first.tags.get("orientation"):
        raise ImageError(
            page.path, f"is turned otherwise than {first.path.name} (Orientation); save it again"
        )


def slice_files(folder):
    """List the files of a folder that are slices by their names, not hidden ones."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SLICE_READERS
        and not path.name.startswith(".")
        and not path.name.lower().endswith(_PREVIEW)
    ]


def _in_order(folder):
    """Return the files of the slices of a folder by number."""
    paths = slice_files(folder)
    if not paths:
        raise ImageError(folder, f"is a folder without slices; they are files {', '.join(SLICE_READERS)}")
    texts, numbers = zip(*(_text_and_numbers(path) for path in paths))
    for path, text in zip(paths, texts):
        if text != texts[0]:
            raise ImageError(
                folder,
                f"{path.name} is called unlike {paths[0].name}; the names of slices differ in their number"
                " only, so move other images away",
            )
    varying = [i for i, column in enumerate(zip(*numbers)) if len(set(column)) > 1]
    if len(varying) > 1:
        raise ImageError(
            folder,
            f"the names of its slices, e.g. {paths[0].name} and {paths[-1].name}, differ in {len(varying)}"
            " numbers; give each volume a folder of its own",
        )
    counted = sorted(zip((own[varying[0]] if varying else 0 for own in numbers), paths))
    for (before, path), (after, following) in zip(counted, counted[1:]):
        if after != before + 1:
            problem = f"slice {before + 1} is missing" if after > before else f"slice {before} is there twice"
            raise ImageError(
                folder, f"{problem}: {path.name} is followed by {following.name}; restore or remove slices"
            )
    return [path for _, path in counted]


def _text_and_numbers(path):
    """Return what is not a number in the name of a file, and its numbers."""
    parts = re.split(r"([0-9]+)", path.stem)
    return parts[::2], tuple(map(int, parts[1::2]))


def _logged_sizes_um(folder):
    """Return the voxel sizes of Bruker's logs in a folder, None where there are none."""
    found = {}
    for path in sorted(Path(folder).glob("*.[lL][oO][gG]")):
        with failures_named(path), open_regular(path) as file:
            if sizes := _sizes_of_log(text_of(file.read(2**20))):
                found[path.name] = sizes
    if len(set(found.values())) > 1 and len({sizes for name, sizes in found.items() if "_rec" in name}) == 1:
        found = {name: sizes for name, sizes in found.items() if "_rec" in name}
    if len(set(found.values())) > 1:
        raise ImageError(folder, f"its logs {', '.join(found)} have different pixel sizes; leave one there")
    return sizes_um(next(iter(found.values()))) if found else None


def _sizes_of_log(text):
    names = ("Pixel Size", "Image Pixel Size")  # of the reconstruction, of the scan
    matches = (re.search(_PIXEL_SIZE.format(name), text, re.MULTILINE) for name in names)
    match, step = next(filter(None, matches), None), _STEP.search(text)
    if match is None:
        return None
    size = float(match[1])
    return size * int(step[1] if step else 1), size, size
