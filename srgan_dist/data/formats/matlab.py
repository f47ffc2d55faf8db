"""MATLAB files of one array of numbers, versions 5 to 7.2 and 7.3 (HDF5).

MATLAB stores the first of its axes (x, y, z) fastest, so the array is read as [z, y, x] from all versions.
"""

from srgan_dist.data.formats.hdf5 import attribute, dataset_volume, datasets, opened_file
from srgan_dist.data.formats.libraries import only_one, volume_shape
from srgan_dist.data.formats.matlab_5 import array_volume, read_arrays

_NUMBERS = ("double", "single", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_HDF5 = b"\x89HDF\r\n\x1a\n"


def open_matlab(path):
    """Read the header of the only array of three axes in a MATLAB file, or the only one of two.

    Text, logical, complex, sparse and structured arrays do not count. Raises ImageError for other numbers of
    arrays.
    """
    with open(path, "rb") as file:
        file.seek(512)
        hdf5 = file.read(len(_HDF5)) == _HDF5
    if hdf5:
        return _open_hdf5(path)
    arrays = read_arrays(path)
    name = _chosen(path, {name: array.shape for name, array in arrays.items()})
    return array_volume(path, arrays[name], volume_shape(path, arrays[name].shape, name))


def _open_hdf5(path):
    with opened_file(path) as file:
        found = {
            name: data.shape
            for name, data in datasets(path, file).items()
            if not name.startswith("#")
            and attribute(data, "MATLAB_class", "double") in _NUMBERS
            and "MATLAB_empty" not in data.attrs
        }
        return dataset_volume(path, file, _chosen(path, found))


def _chosen(path, arrays):
    """Choose an array of {name: shape}; scalars, rows and columns are no images."""
    matrices = [name for name, shape in arrays.items() if len(shape) == 2 and min(shape) > 1]
    if len(matrices) == 1 and not any(len(shape) == 3 for shape in arrays.values()):
        return matrices[0]
    return only_one(path, arrays, "arrays")
