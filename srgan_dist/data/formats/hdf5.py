"""HDF5 files, also NetCDF 4 and MATLAB 7.3: one dataset of three axes, read by its chunks.

Only this one file is read: links to other files, virtual datasets and external storage are errors.
"""

import contextlib
import math

import numpy as np

from srgan_dist.data.formats.hdf5_chunks import bounded
from srgan_dist.data.formats.header import micrometres, sizes_um
from srgan_dist.data.formats.libraries import Chunked, library, only_one, volume_shape
from srgan_dist.data.volume import ImageError, Volume

SCALING = {"scale_factor": 1, "add_offset": 0}  # attributes, and their values where nothing is scaled

_UNITS = ("units", "unit", "voxel_size_unit", "voxel_size_units")


def open_hdf5(path):
    """Read the header of the only dataset of three axes in an HDF5 file; raises ImageError for any other
    number of them.
    """
    with opened_file(path) as file:
        found = {name: data.shape for name, data in datasets(path, file).items()}
        return dataset_volume(path, file, only_one(path, found, "datasets"))


@contextlib.contextmanager
def opened_file(path):
    """Open an HDF5 file."""
    h5py = library("h5py", path)
    with h5py.File(path, "r", locking=False, rdcc_nbytes=2**26) as file:
        yield file


def datasets(path, file):
    """Return {name: dataset} of all datasets of numbers; raises ImageError for links to other files."""
    h5py, links, names = library("h5py", path), {}, []
    # The visitors only note what they meet: errors do not pass through the library.
    file.visititems_links(links.__setitem__)
    file.visit(names.append)  # each object once; soft links are not followed
    for name, link in links.items():
        if isinstance(link, h5py.ExternalLink):
            raise ImageError(
                path,
                f"its {name!r} is a link to another file ({link.filename}), which is not followed; save the"
                " volume itself",
            )
    found = {name: item for name in names if isinstance(item := file[name], h5py.Dataset)}
    for name, dataset in found.items():
        _check_storage(path, name, dataset)
    return {name: item for name, item in found.items() if item.dtype.kind in "iuf" and item.shape}


def _check_storage(path, name, dataset):
    if dataset.is_virtual or dataset.external:
        kind = "a virtual dataset of other files" if dataset.is_virtual else "stored in other files"
        raise ImageError(path, f"its {name!r} is {kind}, which are not read; save the volume itself")


def dataset_volume(path, file, name):
    """Return the Volume of a dataset of an HDF5 file, whose voxels are compared with the file's size."""
    dataset = file[name]
    shape = volume_shape(path, dataset.shape, name)
    bounded(path, dataset)
    if dataset.chunks:
        chunks = math.prod(-(-size // side) for size, side in zip(dataset.shape, dataset.chunks))
        missing = chunks - dataset.id.get_num_chunks()
    else:
        missing = dataset.nbytes - dataset.id.get_storage_size()
    if missing:
        raise ImageError(
            path,
            f"{name} has parts without data, which would be {dataset.fillvalue}; save it with all voxels",
        )
    refuse_scaling(path, name, {key: attribute(dataset, key) for key in SCALING})
    sizes = _attribute_sizes_um(dataset) or _coordinate_sizes_um(path, dataset)
    return Volume(path, shape, dataset.dtype.newbyteorder("="), _voxels, sizes, layout=name)


def refuse_scaling(path, name, attributes):
    """Raise ImageError for values that are stored scaled, by NetCDF's convention."""
    for key, neutral in SCALING.items():
        value = attributes.get(key)
        if value is not None and not np.all(value == neutral):
            raise ImageError(path, f"{name} has {key} {value}; save the values without scaling")


@contextlib.contextmanager
def _voxels(volume):
    with opened_file(volume.path) as file:
        dataset = file[volume.layout]
        _check_storage(volume.path, volume.layout, dataset)
        depth = dataset.chunks[0] if dataset.chunks and dataset.ndim == 3 else 1
        yield Chunked(bounded(volume.path, dataset), depth)


def attribute(item, name, default=None):
    """Return an attribute of numbers, or of text of fixed length; others count as missing.

    Text of variable length is never read: where it is damaged the library may not return.
    """
    if name not in item.attrs or item.attrs.get_id(name).dtype.kind not in "iufS":
        return default
    value = item.attrs[name]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _attribute_sizes_um(dataset):
    """Return voxel sizes (z, y, x) of attributes: `element_size_um` as ilastik and BigDataViewer write it,
    or `voxel_size` with a unit.
    """
    for name, unit in {"element_size_um": 1.0, "voxel_size_um": 1.0, "voxel_size": None}.items():
        sizes = np.ravel(attribute(dataset, name, ()))
        if len(sizes) not in (1, 3) or sizes.dtype.kind not in "iuf":
            continue
        given = next(filter(None, (attribute(dataset, key) for key in _UNITS)), "")
        return sizes_um(sizes.tolist() * (3 // len(sizes)), unit or micrometres(given))
    return None


def _coordinate_sizes_um(path, dataset):
    """Return voxel sizes of NetCDF's coordinate variables z, y and x: even steps in a unit of length."""
    # By name: the library does not survive damaged references to them (DIMENSION_LIST).
    found = [dataset.parent.get(axis) for axis in "zyx"]
    return sizes_um([_step_um(path, axis, size) for axis, size in zip(found, (1, *dataset.shape)[-3:])])


def _step_um(path, coordinate, size):
    if getattr(coordinate, "shape", None) != (size,):
        return None
    _check_storage(path, coordinate.name, coordinate)
    if coordinate.dtype.kind not in "iuf" or coordinate.nbytes > 2**24:
        return None
    return even_step_um(bounded(path, coordinate)[(slice(0, size),)], attribute(coordinate, "units", ""))


def even_step_um(coordinates, unit):
    """Return the step of coordinates in micrometres, None where it is uneven or the unit is no length."""
    steps, factor = np.diff(np.asarray(coordinates, np.float64)), micrometres(unit)
    if factor is None or not len(steps) or not np.allclose(steps, steps[0], rtol=1e-3, atol=0):
        return None
    return abs(float(steps[0])) * factor
