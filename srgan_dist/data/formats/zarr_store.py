"""Zarr stores, versions 2 and 3, and OME-Zarr: a folder that is one array of voxels in chunks."""

import contextlib
import math
import os
from pathlib import Path, PurePosixPath

import numpy as np

from srgan_dist.data.formats.header import micrometres, sizes_um
from srgan_dist.data.formats.libraries import Chunked, library, only_one, volume_shape
from srgan_dist.data.formats.zarr_metadata import FILES, read_array, read_attributes
from srgan_dist.data.volume import ImageError, Volume

_FEWEST = 0.01  # share of the chunks that are stored; of the others all voxels are one value


def open_zarr(path):
    """Read the metadata of a Zarr store: its only array of three axes, or level 0 of an OME-Zarr image.

    Raises ImageError for several arrays, for axes of time or channels with more than one entry, for types,
    codecs and links that are not read, and for a store without chunks.
    """
    if not path.is_dir():
        raise ImageError(path, "is a file; a Zarr store is a folder")
    library("zarr", path)  # before voxels are asked for
    arrays, image = _arrays(path), _image(path)
    if image is None:
        shapes = {name: metadata.shape for name, (metadata, _) in arrays.items()}
        name = next(iter(shapes)) if len(shapes) == 1 else only_one(path, shapes, "arrays")
        shape, sizes = volume_shape(path, shapes[name], name or "its array"), None
    else:
        name, axes, scale = image
        if name not in arrays:
            raise ImageError(path, f"has no array {name!r}, its level 0; copy the folder again")
        shape, sizes = _image_shape(path, axes, arrays[name][0].shape), _sizes_um(axes, scale)
    metadata, files = arrays[name]
    if files < _FEWEST * metadata.files:
        raise ImageError(
            path,
            f"is not complete: {files} of the {metadata.files} chunks of {name or 'its array'} are stored;"
            " copy the folder again",
        )
    dtype, notes = metadata.dtype.newbyteorder("="), _missing_note(path, name, metadata, files)
    return Volume(path, shape, dtype, _voxels, sizes, layout=(name, metadata), notes=notes)


def _missing_note(path, name, metadata, files):
    """Return at most one note: chunks that are not stored, which may be empty or lost."""
    missing, value = metadata.files - files, metadata.content.get("fill_value") or 0
    if missing <= 0:
        return ()
    return (
        f"{path}: {missing} of the {metadata.files} chunks of {name or 'its array'}"
        f" ({100 * missing / metadata.files:.2g} %) are not stored, so their voxels are {value!r:.20}:"
        " chunks of one value are left out, but a copy that was cut short lacks some too. Compare its"
        " number of files with that of the original",
    )


def _arrays(root):
    """Return {name: (its metadata, the number of its chunks)}; raises ImageError for a link out of the
    store.
    """
    arrays, owners, real = {}, {}, root.resolve()
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for link in [here / name for name in (*folders, *files) if (here / name).is_symlink()]:
            if not link.resolve().is_relative_to(real):
                raise ImageError(link, "leads out of its Zarr store; replace the link by what it names")
        owner = owners.get(here.parent)
        if any(name in files for name in FILES) and (metadata := read_array(here)):
            owner = str(PurePosixPath(here.relative_to(root))) if here != root else ""
            arrays[owner] = metadata, 0
        owners[here] = owner
        if owner is not None:
            metadata, count = arrays[owner]
            arrays[owner] = metadata, count + sum(name not in FILES for name in files)
    return arrays


@contextlib.contextmanager
def _voxels(volume):
    zarr, (name, metadata) = library("zarr", volume.path), volume.layout
    from srgan_dist.data.formats.zarr_codecs import bounded  # imports zarr

    if read_array(volume.path / name) != metadata:
        raise ImageError(volume.path, "has changed since its metadata was read; start again")
    store = zarr.storage.StorePath(zarr.storage.LocalStore(volume.path / name, read_only=True))
    array = zarr.Array(zarr.AsyncArray(bounded(metadata), store))
    yield Chunked(array, metadata.chunk[-3] if array.ndim > 2 else 1)


# OME-Zarr: https://ngff.openmicroscopy.org/specifications


def _image(path):
    """Return (name, axes, scale) of level 0 of an OME-Zarr image, None where it is a plain store.

    axes: (name, unit or None) of each; scale: voxel sizes in these units, None where they are not given.
    """
    attributes = read_attributes(path)
    images = attributes.get("ome", attributes).get("multiscales")
    if images is None:
        return None
    if len(images) != 1:
        raise ImageError(path, f"holds {len(images)} images (multiscales); save one to a store of its own")
    (image,) = images
    level = image["datasets"][0]
    axes = [
        (axis.get("name"), axis.get("unit")) if isinstance(axis, dict) else (axis, None)
        for axis in image.get("axes", "tczyx")
    ]
    scales = [
        step["scale"]
        for step in (*level.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ()))
        if step.get("type") == "scale"
    ]
    scale = np.prod(np.array(scales, float), axis=0).tolist() if scales else None
    return str(PurePosixPath(level["path"])), axes, scale


def _image_shape(path, axes, shape):
    names = [name for name, _ in axes]
    spatial = names[-3:] if names[-3:] == ["z", "y", "x"] else names[-2:]
    leading = shape[: -len(spatial)]
    if len(names) != len(shape) or spatial[-2:] != ["y", "x"] or math.prod(leading) != 1:
        listed = ", ".join(f"{name} {size}" for name, size in zip(names, shape))
        raise ImageError(
            path, f"has the axes {listed}; only z, y, x are read, so save one time and channel to a store"
        )
    return (1, *shape[-len(spatial) :])[-3:]


def _sizes_um(axes, scale):
    if scale is None or len(scale) != len(axes):
        return None
    factors = [micrometres(unit or "") for _, unit in axes]
    sizes = [size * factor if factor else None for size, factor in zip(scale, factors)]
    spatial = 3 if len(axes) > 2 and axes[-3][0] == "z" else 2
    return sizes_um((None, *sizes[-spatial:])[-3:])
