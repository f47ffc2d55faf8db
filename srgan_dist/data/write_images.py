"""Writing images: PNG, TIFF and NPY files that hold one page or a volume."""

import io
import itertools
import uuid
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from srgan_dist.data.volume import ALLOWED_DTYPES, CENTIMETRE, INCH, ImageError
from srgan_dist.utils.files import atomic_write


def write_pages(path, pages, count, tags=None, voxel_sizes_um=None, before_naming=lambda file: None):
    """Write `count` pages, each [H, W] of one shape and type, one in memory at a time.

    The suffix chooses the format; PNG takes one page, of uint8 or uint16. The file appears under its name
    only when it is complete, and never replaces another. tags: "resolution" ((numerator, denominator) along x
    and y), "resolutionunit", "description" and "orientation" in the terms of a TIFF, as `read_info` gives
    them; those that the format cannot hold are left out. voxel_sizes_um: (z, y, x), None, or None for an
    axis, where unknown; a TIFF holds them as OME-XML unless its description, ImageJ's, says them already.
    before_naming(file) is called with the complete file before it has its name.
    """
    path, tags = Path(path), tags or {}
    check_writable(path, count, tags)
    with atomic_write(path, replace=False) as unfinished:
        write = WRITERS[path.suffix.lower()]
        write(unfinished, pages, count, tags, voxel_sizes_um or (None,) * 3, path.name)
        before_naming(unfinished)


def check_writable(path, count, tags, dtype=np.uint8):
    """Raise ImageError where the format of `path` cannot hold `count` pages of a type with these tags."""
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ImageError(
            path,
            f"format {path.suffix!r} is not written; give a name that ends in one of {', '.join(WRITERS)}",
        )
    if writer is _write_png and count != 1:
        raise ImageError(path, f"PNG holds one page, not {count}; write .tif or .npy")
    if writer is _write_png and dtype not in ALLOWED_DTYPES:
        raise ImageError(path, f"PNG holds uint8 and uint16, not {np.dtype(dtype)}; write .tif or .npy")
    if writer is not _write_tiff and "orientation" in tags:
        # Without this tag a program that applies it would show the image in another orientation.
        raise ImageError(
            path,
            f"only TIFF can say that the picture is to be turned, as its source does (Orientation"
            f" {tags['orientation']}); write .tif, or save the source with Orientation 1",
        )


def _write_png(path, pages, count, tags, sizes, name):
    data = io.BytesIO()
    Image.fromarray(next(iter(pages))).save(data, "png", dpi=_dpi(tags, sizes))
    path.write_bytes(data.getvalue())


def _dpi(tags, sizes):
    """Return the resolution as a PNG holds it, None where it has no length to refer to or does not fit."""
    per_metre = {INCH: Fraction(10000, 254), CENTIMETRE: 100}.get(tags.get("resolutionunit"))
    _, along_y, along_x = sizes
    if along_y and along_x:
        resolution = [1e6 / along_x, 1e6 / along_y]
    elif per_metre is None or "resolution" not in tags:
        return None
    else:
        resolution = [Fraction(*pair) * per_metre for pair in tags["resolution"]]
    fits = all(1 <= round(pixels) < 2**31 for pixels in resolution)
    return tuple(float(pixels) * 0.0254 for pixels in resolution) if fits else None


def _write_tiff(path, pages, count, tags, sizes, name):
    pages = iter(pages)
    first = next(pages)
    options = {"photometric": "minisblack", **_resolution(tags, sizes)}
    if "orientation" in tags:
        options["extratags"] = [(274, "H", 1, tags["orientation"], True)]
    as_ome = any(sizes) and "description" not in tags
    if "description" in tags:
        options["description"] = tags["description"].encode()
    with tifffile.TiffWriter(path, bigtiff=first.nbytes * count > 4e9, ome=as_ome) as tiff:
        pages = itertools.chain([first], pages)
        if as_ome:
            shape = count, *first.shape
            metadata = ome_metadata(name, shape, first.dtype, sizes)
            tiff.write(pages, shape=shape, dtype=first.dtype, metadata=metadata, **options)
        else:
            for page in pages:
                tiff.write(page, metadata=None, contiguous=False, **options)


def _resolution(tags, sizes):
    """Return the resolution of a TIFF: that of its tags, with which a description of ImageJ goes, or of the
    voxel sizes.
    """
    _, along_y, along_x = sizes
    if along_y and along_x and "description" not in tags:
        return {"resolution": (1e4 / along_x, 1e4 / along_y), "resolutionunit": CENTIMETRE}
    resolution = [Fraction(*pair).as_integer_ratio() for pair in tags.get("resolution", ())]
    if not resolution or max(map(max, resolution)) >= 2**32:
        return {}
    return {"resolution": tuple(resolution), "resolutionunit": tags["resolutionunit"]}


def ome_metadata(name, shape, dtype, sizes):
    """Return what tifffile writes as OME-XML of a volume; sizes: (z, y, x) in micrometres, None: unknown."""
    # By default random; so that the same volume has the same bytes
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {shape} {dtype} {sizes}")
    known = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", sizes, strict=True) if size}
    return {"axes": "ZYX", "UUID": f"urn:uuid:{identity}", **known}


def _write_npy(path, pages, count, tags, sizes, name):
    """Not by a memory map, which on a full disk would kill the process."""
    pages = iter(pages)
    first = next(pages)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (count, *first.shape)[count == 1 :],
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for page in itertools.chain([first], pages):
            file.write(np.ascontiguousarray(page, first.dtype))


# suffix in lower case -> writer
WRITERS = {".png": _write_png, ".tif": _write_tiff, ".tiff": _write_tiff, ".npy": _write_npy}
