"""Reading rock images: one grey channel, 8 or 16 bit, with the grey levels of the file.

A file holds one page (a slice) or many (a volume), in one of the formats of `READERS`; a folder of numbered
slices is a volume too. RGB is read as grey when its three channels are equal, alpha where it is opaque, a
palette of grey levels and an inverted scale (MINISWHITE) as they say. Everything that would need a decision
about grey levels (float data without a window, transparent pixels, unequal channels) or slices
(channels, time points, thumbnails, a description of other slices than the file holds) is an error that names
it.
"""

import os
import re
from pathlib import Path

import numpy as np

from srgan_dist.data.formats import metaimage, nrrd, volume_graphics
from srgan_dist.data.formats.avizo import open_avizo
from srgan_dist.data.formats.bare_raw import open_raw
from srgan_dist.data.formats.bmp import open_bmp
from srgan_dist.data.formats.dicom import open_dicom, open_series, series_files
from srgan_dist.data.formats.hdf5 import open_hdf5
from srgan_dist.data.formats.matlab import open_matlab
from srgan_dist.data.formats.metaimage import open_metaimage
from srgan_dist.data.formats.netcdf import open_netcdf
from srgan_dist.data.formats.npy import open_npy
from srgan_dist.data.formats.nrrd import open_nrrd
from srgan_dist.data.formats.png import open_png
from srgan_dist.data.formats.slices import SLICE_READERS, open_slices, slice_files
from srgan_dist.data.formats.tiff import open_tiff
from srgan_dist.data.formats.txm import open_txm, open_txrm
from srgan_dist.data.formats.volume_graphics import open_vgi, open_vol_info
from srgan_dist.data.formats.zarr_store import open_zarr
from srgan_dist.data.volume import ALLOWED_DTYPES, VOXEL_DTYPES, ImageError, failures_named
from srgan_dist.utils.files import open_regular

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
    b"NRRD": "NRRD",
    b"# AmiraMesh": "Avizo",
    b"# Avizo": "Avizo",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\x89HDF": "HDF5",
    b"MATLAB": "MATLAB",
    b"CDF\1": "NetCDF 3",
    b"CDF\2": "NetCDF 3",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "OLE",
    b"PK\3\4": "ZIP or NPZ",
    b"\x1f\x8b": "gzip",
}


# suffix in lower case -> (format, its function: path -> Volume)
READERS = {
    ".png": ("PNG", open_png),
    ".tif": ("TIFF", open_tiff),
    ".tiff": ("TIFF", open_tiff),
    ".npy": ("NPY", open_npy),
    ".bmp": ("BMP", open_bmp),
    ".mhd": ("MetaImage", open_metaimage),
    ".mha": ("MetaImage", open_metaimage),
    ".nrrd": ("NRRD", open_nrrd),
    ".nhdr": ("NRRD", open_nrrd),
    ".am": ("Avizo", open_avizo),
    ".vgi": ("Volume Graphics", open_vgi),
    ".vol.info": ("VOL", open_vol_info),
    ".raw.info": ("VOL", open_vol_info),
    ".raw": ("raw voxels", open_raw),
    ".vol": ("raw voxels", open_raw),
    ".mat": ("MATLAB", open_matlab),
    ".h5": ("HDF5", open_hdf5),
    ".hdf5": ("HDF5", open_hdf5),
    ".nc": ("NetCDF", open_netcdf),
    ".nc4": ("NetCDF", open_netcdf),
    ".txm": ("OLE", open_txm),
    ".txrm": ("OLE", open_txrm),
    ".dcm": ("DICOM", open_dicom),
    ".dicom": ("DICOM", open_dicom),
    ".zarr": ("Zarr", open_zarr),
}

SLICE_SUFFIXES = (*SLICE_READERS, ".dcm", ".dicom")

FORMATS = ", ".join(READERS)  # for messages

# suffix of a header -> path -> the file that holds its voxels, which is no image of its own
_DATA_FILES = {
    ".mhd": metaimage.data_file,
    ".nhdr": nrrd.data_file,
    ".vgi": volume_graphics.vgi_data_file,
    ".vol.info": volume_graphics.info_data_file,
    ".raw.info": volume_graphics.info_data_file,
}


def read_header(path, raw=None):
    """Read the header of an image or volume of any pixel type, or of a folder of slices: a Volume.

    raw: RawOptions of voxels without a header. Raises ImageError for a format, pixel type or channel layout
    that is not grey.
    """
    path = Path(path)
    with failures_named(path):
        if path.is_dir():
            volume = _folder_reader(path)(path)
        else:
            kind, opened = _reader(path)
            _check_signature(path, kind)
            volume = open_raw(path, raw) if opened is open_raw else opened(path)
    if volume.dtype not in VOXEL_DTYPES:
        types = ", ".join(map(str, VOXEL_DTYPES))
        raise ImageError(path, f"pixels are {volume.dtype}; save them as one of {types}")
    if min(volume.shape) < 1:
        raise ImageError(path, f"is empty ({volume.slices} pages of {volume.height}x{volume.width} pixels)")
    if volume.height * volume.width > MAX_PIXELS:
        raise ImageError(
            path, f"claims {volume.height}x{volume.width} pixels, more than the limit of {MAX_PIXELS}"
        )
    return volume


def read_info(path, raw=None, window=None, dtype=np.uint8):
    """Read the header of an image or volume whose pixels are read as 8 or 16 bits: a Volume.

    raw: as in `read_header`. window: Window that maps the pixels to `dtype` as they are read; without one
    only uint8 and uint16 are read, as they are. Raises ImageError for others, and as `read_header` does.
    """
    volume = read_header(path, raw)
    if window is not None:
        return volume.windowed(window, dtype)
    if volume.dtype not in ALLOWED_DTYPES:
        raise ImageError(
            path,
            f"pixels are {volume.dtype}; only uint8 and uint16 are read as they are. Say which values become"
            " black and white, the same for all images: --window LOW:HIGH, or --window auto",
        )
    return volume


def read_pages(path):
    """Yield the slices of an image file in order, each [H, W] uint8 or uint16, one in memory at a time."""
    yield from read_info(path).pages()


def read_image(path):
    """Read a file of one page: [H, W] uint8 or uint16."""
    info = read_info(path)
    if info.slices != 1:
        raise ImageError(path, f"holds {info.slices} pages where one image is expected")
    return next(info.pages())


def is_store(path):
    """Return whether a folder is one volume and not a folder of images: a Zarr store."""
    return suffix_of(path) == ".zarr" and Path(path).is_dir()


def is_slice(path):
    """Return whether a file may be a slice of a series: TIFF, PNG, BMP or DICOM, of one page."""
    try:
        return suffix_of(path) in SLICE_SUFFIXES and read_header(path).slices == 1
    except ImageError:
        return False  # it will be named when it is read


def belongs_to_series(path):
    """Return whether a file of a folder of slices is read with these: a slice, or a log of Bruker's."""
    return suffix_of(path) in (*SLICE_SUFFIXES, ".log")


def is_image(path):
    """Return whether the suffix of `path`, in any case, is that of a format that is read."""
    return suffix_of(path) in READERS


def is_raw(path):
    """Return whether the suffix of `path` is that of voxels without a header."""
    return READERS.get(suffix_of(path), ("", None))[1] is open_raw


def suffix_of(path):
    """Return the suffix of a path in lower case: of `a.vol.info` the whole of it, which names the format."""
    suffixes = Path(path).suffixes
    longest = "".join(suffixes[-2:]).lower()
    return longest if longest in READERS else "".join(suffixes[-1:]).lower()


def split_images(paths):
    """Split files into (images, other files), in their order.

    A file that holds the voxels of a header among them is neither: it is read with that header.
    """
    with_header = {file for path in paths if (file := _data_file(path))}
    paths = [path for path in paths if path not in with_header]
    return [path for path in paths if is_image(path)], [path for path in paths if not is_image(path)]


def files_of(path):
    """Return the file or folder of an image and, of a header, also the file that holds its voxels."""
    return [path, *filter(None, [_data_file(path)])]


def _data_file(path):
    """Return the file that a header names; None for other files, and for a header that cannot be read."""
    find = _DATA_FILES.get(suffix_of(path))
    try:
        return find(path) if find else None
    except (ImageError, OSError, ValueError):
        return None


def find_images(root):
    """List the files below the folder `root` in natural order (slice_2 before slice_10): (images, other
    files), as `split_images` does.

    Links to folders are followed. Hidden files and folders and system files (Thumbs.db) are left out. A
    broken link is listed like a file, so that reading it raises ImageError.
    """
    return split_images(sorted(_files_below(Path(root), ()), key=natural))


def _files_below(folder, parents):
    """Yield all files below a folder; parents: the real paths of the folders above it."""
    real = os.path.realpath(folder)
    if real in parents:
        return  # a link to a parent
    for path in folder.iterdir():
        if is_hidden(path.name):
            continue
        if path.is_dir() and not is_store(path):
            yield from _files_below(path, (*parents, real))
        else:
            yield path


def is_hidden(name):
    """Return whether a file or folder of this name is left out: hidden, or made by a system (Thumbs.db)."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


# suffix of files that are not read -> the way to convert them
_CONVERSIONS = {
    (".jpg", ".jpeg", ".webp"): "compression has changed their grey levels: take the originals",
    (".jp2", ".gif", ".pgm", ".pbm", ".ppm", ".pnm", ".tga"): "save them as PNG or TIFF, e.g. with ImageJ",
    (".czi", ".lif", ".nd2", ".lsm", ".ims", ".svs"): "export them as TIFF, e.g. with ImageJ's Bio-Formats",
    (".nii", ".nii.gz", ".img", ".hdr", ".vtk", ".vti"): "save them as .nrrd, e.g. with 3D Slicer",
    (".npz", ".pkl", ".pt", ".pth"): "save each array with numpy.save as .npy",
    (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz"): "unpack them",
    (".vgl", ".hx", ".xrm", ".rec", ".mrc", ".dm3", ".dm4"): "export the volumes as TIFF or raw voxels",
}


def left_out(folder, names):
    """Return a list of at most one note: the files of a folder that are no images, and a way to convert
    them.
    """
    if not names:
        return []
    by_suffix = {}
    for name in names:
        suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else suffix_of(name)
        by_suffix.setdefault(suffix or "without suffix", []).append(name)
    groups = [_described(suffix, own) for suffix, own in sorted(by_suffix.items(), key=lambda g: -len(g[1]))]
    more = f"; {len(groups) - 8} more kinds" * (len(groups) > 8)
    return [
        f"{folder}: {len(names)} files are of no format that is read and are left out:"
        f" {'; '.join(groups[:8])}{more}"
    ]


def _described(suffix, names):
    way = next((way for suffixes, way in _CONVERSIONS.items() if suffix in suffixes), None)
    listed = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} {suffix} ({listed})" + (f": {way}" if way else "")


def natural(path):
    """Return a key that sorts slice_2 before slice_10."""
    parts = re.split(r"(\d+)", str(path))
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbered, str(path)  # 1.png and 01.png are equal in the first


def _folder_reader(folder):
    if is_store(folder):
        return open_zarr
    dicom, others = series_files(folder), slice_files(folder)
    if dicom and others:
        raise ImageError(
            folder,
            f"holds slices of several formats, {dicom[0].name}, {others[0].name}; leave those of one there",
        )
    return open_series if dicom else open_slices


def _reader(path):
    if not is_image(path):
        raise ImageError(path, f"format {path.suffix!r} is not read; use one of {', '.join(READERS)}")
    return READERS[suffix_of(path)]


def _check_signature(path, kind):
    """Raise ImageError for a file whose first bytes are not those of the format that its suffix names."""
    with open_regular(path) as file:
        head = file.read(16)
    if not head:
        raise ImageError(path, "is empty (0 bytes); copy or export it again")
    if kind not in _SIGNATURES.values():
        return  # raw voxels may begin with anything, and the readers of text headers look at theirs
    found = next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)
    if found == kind:
        return
    suffix = next((suffix for suffix, (name, _) in READERS.items() if name == found), None)
    if suffix:
        raise ImageError(path, f"holds {found} data; rename it to {path.stem}{suffix}")
    if found:
        raise ImageError(path, f"holds {found} data; convert it to one of {', '.join(READERS)}")
    article = "an" if kind[0] in "AN" else "a"
    raise ImageError(
        path, f"is not {article} {kind} file (it begins with {head[:8]!r}); copy or export it again"
    )
