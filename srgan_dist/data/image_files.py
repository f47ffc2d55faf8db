"""Reading rock images: one grey channel, 8 or 16 bit, with the grey levels of the file.

A file holds one page (a slice) or many (a volume): PNG, TIFF (any compression, multi-page, ImageJ stacks) and
NPY. RGB is read as grey when its three channels are equal. Everything that would need a decision about grey
levels (float data, palettes, alpha, unequal channels, inverted scales) or slices (channels, time points,
thumbnails, a description of other slices than the file holds) is an error that names it.
"""

import os
import re
from pathlib import Path

from srgan_dist.data.formats.npy import open_npy
from srgan_dist.data.formats.png import open_png
from srgan_dist.data.formats.tiff import open_tiff
from srgan_dist.data.volume import ALLOWED_DTYPES, ImageError, failures_named

MAX_PIXELS = 2**30  # of one page: far above any detector, far below what a forged header can claim

_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_SIGNATURES = {  # how a file begins
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NPY",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\x89HDF": "HDF5",
    b"MATLAB": "MATLAB",
    b"PK\3\4": "ZIP or NPZ",
    b"\x1f\x8b": "gzip",
}


# suffix in lower case -> (format, its function: path -> Volume)
READERS = {
    ".png": ("PNG", open_png),
    ".tif": ("TIFF", open_tiff),
    ".tiff": ("TIFF", open_tiff),
    ".npy": ("NPY", open_npy),
}


def read_info(path):
    """Read the header of an image file: a Volume.

    Raises ImageError for a format, pixel type or channel layout that is not grey 8 or 16 bit.
    """
    path = Path(path)
    kind, opened = _reader(path)
    with failures_named(path):
        _check_signature(path, kind)
        info = opened(path)
    if info.dtype not in ALLOWED_DTYPES:
        raise ImageError(
            path,
            f"pixels are {info.dtype}; only uint8 and uint16 are read. Map the grey levels to"
            " one of them with a window of your choice (the same for all images) and save again",
        )
    if min(info.shape) < 1:
        raise ImageError(path, f"is empty ({info.slices} pages of {info.height}x{info.width} pixels)")
    if info.height * info.width > MAX_PIXELS:
        raise ImageError(
            path, f"claims {info.height}x{info.width} pixels, more than the limit of {MAX_PIXELS}"
        )
    return info


def read_pages(path):
    """Yield the slices of an image file in order, each [H, W] uint8 or uint16, one in memory at a time."""
    yield from read_info(path).pages()


def read_image(path):
    """Read a file of one page: [H, W] uint8 or uint16."""
    info = read_info(path)
    if info.slices != 1:
        raise ImageError(path, f"holds {info.slices} pages where one image is expected")
    return next(info.pages())


def is_image(path):
    """Return whether the suffix of `path`, in any case, is that of a format that is read."""
    return Path(path).suffix.lower() in READERS


def find_images(root):
    """List the files below the folder `root` in natural order (slice_2 before slice_10): (images, other
    files).

    Links to folders are followed. Hidden files and folders and system files (Thumbs.db) are left out. A
    broken link is listed like a file, so that reading it raises ImageError.
    """
    paths = sorted(_files_below(Path(root), ()), key=natural)
    return [path for path in paths if is_image(path)], [path for path in paths if not is_image(path)]


def _files_below(folder, parents):
    """Yield all files below a folder; parents: the real paths of the folders above it."""
    real = os.path.realpath(folder)
    if real in parents:
        return  # a link to a parent
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        if path.is_dir():
            yield from _files_below(path, (*parents, real))
        else:
            yield path


def is_hidden(name):
    """Return whether a file or folder of this name is left out: hidden, or made by a system (Thumbs.db)."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def left_out(folder, names):
    """Return a list of at most one note: the files of a folder that are no images."""
    if not names:
        return []
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"{folder}: {len(names)} files are not PNG, TIFF or NPY and are left out: {listed}"]


def natural(path):
    """Return a key that sorts slice_2 before slice_10."""
    parts = re.split(r"(\d+)", str(path))
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbered, str(path)  # 1.png and 01.png are equal in the first


def _reader(path):
    if not is_image(path):
        raise ImageError(path, f"format {path.suffix!r} is not read; use one of {', '.join(READERS)}")
    return READERS[path.suffix.lower()]


def _check_signature(path, kind):
    """Raise ImageError for a file whose first bytes are not those of the format that its suffix names."""
    if path.exists() and not path.is_file():
        raise ImageError(path, "is not a file")  # opening a pipe would block
    with open(path, "rb") as file:
        head = file.read(16)
    found = next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)
    if found == kind:
        return
    suffix = next((suffix for suffix, (name, _) in READERS.items() if name == found), None)
    if not head:
        raise ImageError(path, "is empty (0 bytes); copy or export it again")
    if suffix:
        raise ImageError(path, f"holds {found} data; rename it to {path.stem}{suffix}")
    if found:
        raise ImageError(path, f"holds {found} data; convert it to one of {', '.join(READERS)}")
    article = "an" if kind == "NPY" else "a"
    raise ImageError(
        path, f"is not {article} {kind} file (it begins with {head[:8]!r}); copy or export it again"
    )
