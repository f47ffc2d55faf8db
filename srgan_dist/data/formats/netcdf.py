"""NetCDF files of one variable of three axes: version 3 is mapped into memory, version 4 is HDF5.

Not scipy.io: its attributes of the same name as a method replace it. The format of version 3:
https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

import contextlib
import math

import numpy as np

from srgan_dist.data.formats.hdf5 import even_step_um, open_hdf5, refuse_scaling
from srgan_dist.data.formats.header import micrometres, sizes_um, start_of
from srgan_dist.data.formats.libraries import only_one, volume_shape
from srgan_dist.data.volume import ImageError, Volume

_TEXT = 2
_TYPES = {1: ">i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
_TYPES |= {7: ">u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}  # of version "CDF-5"


def open_netcdf(path):
    """Read the header of the only variable of three axes in a NetCDF file; raises ImageError for any other
    number of them, and for values that are to be scaled.
    """
    data = start_of(path)
    if data.startswith(b"\x89HDF"):
        return open_hdf5(path)
    if data[:4] not in (b"CDF\1", b"CDF\2", b"CDF\5"):
        raise ImageError(path, f"is not a NetCDF file (it begins with {data[:4]!r}); copy or export it again")
    variables, attributes = _Header(data).read()
    numbers = {name: variable.shape for name, variable in variables.items() if variable.stored.kind in "iuf"}
    name = only_one(path, numbers, "variables")
    variable, shape = variables[name], volume_shape(path, numbers[name], name)
    refuse_scaling(path, name, variable.attributes)
    end = variable.offset + (shape[0] - 1) * variable.step + math.prod(shape[1:]) * variable.stored.itemsize
    if end > (size := path.stat().st_size):
        raise ImageError(
            path, f"is cut short: {name} ends at byte {end}, the file has {size}; copy or export it again"
        )
    sizes = [_step_um(data, variables.get(axis)) for axis in variable.axes]
    sizes = sizes_um(sizes) or _mango_sizes_um(attributes)
    layout = variable.stored, variable.offset, variable.step
    return Volume(path, shape, variable.stored.newbyteorder("="), _voxels, sizes, layout=layout)


def _voxels(volume):
    stored, offset, step = volume.layout
    file = np.memmap(volume.path, np.uint8, "r")
    row = volume.width * stored.itemsize
    return contextlib.nullcontext(
        np.ndarray(volume.shape, stored, file, offset, (step, row, stored.itemsize))
    )


def _step_um(data, coordinate):
    """Return the step of a coordinate variable in micrometres, None where it has no even one."""
    if coordinate is None or len(coordinate.shape) != 1 or coordinate.stored.kind not in "iuf":
        return None
    if coordinate.step != coordinate.stored.itemsize:  # beside other variables of its records
        return None
    values = np.frombuffer(
        data[coordinate.offset :][: coordinate.shape[0] * coordinate.step], coordinate.stored
    )
    return even_step_um(values, coordinate.attributes.get("units", ""))


def _mango_sizes_um(attributes):
    """Return the voxel sizes (z, y, x) that Mango, of the Australian National University, writes."""
    sizes = np.ravel(attributes.get("voxel_size_xyz", ()))
    if len(sizes) != 3 or sizes.dtype.kind != "f":
        return None
    return sizes_um(sizes[::-1].tolist(), micrometres(attributes.get("voxel_unit", "")))


class _Variable:
    def __init__(self, axes, shape, attributes, stored, offset):
        self.axes, self.shape, self.attributes = axes, shape, attributes
        self.stored, self.offset = stored, offset
        self.step = math.prod(shape[1:]) * stored.itemsize  # bytes from one slice to the next


class _Header:
    """A cursor in the header of a NetCDF file of version 3; its errors are ValueErrors."""

    def __init__(self, data):
        self.data, self.at = data, 4
        self.width = 8 if data[3] == 5 else 4  # of a count in bytes
        self.offset_width = 4 if data[3] == 1 else 8

    def read(self):
        """Return ({name: _Variable}, attributes of the file)."""
        self.records = self._number()
        self.dimensions = self._list(10, lambda: (self._text(), self._number()))
        attributes = dict(self._list(12, self._attribute))
        in_records = []
        variables = dict(self._list(11, lambda: self._variable(in_records)))
        step = sum(-(-variable.step // 4) * 4 for variable in in_records)
        for variable in in_records[1:] and in_records:  # a single one is stored without gaps
            variable.step = step
        return variables, attributes

    def _variable(self, in_records):
        name = self._text()
        numbers = [self._number() for _ in range(self._number())]
        axes = [self.dimensions[number] for number in numbers]
        attributes = dict(self._list(12, self._attribute))
        stored = np.dtype(_TYPES[self._number(4)])
        if str(attributes.get("_Unsigned", "")).lower() == "true" and stored.kind == "i":
            stored = np.dtype(stored.str.replace("i", "u"))
        self._number()  # its size in bytes, which overflows for large ones
        offset = self._number(self.offset_width)
        recorded = bool(axes) and axes[0][1] == 0  # along the dimension that grows
        shape = tuple(size for _, size in axes)
        shape = (self.records, *shape[1:]) if recorded else shape
        variable = _Variable([axis for axis, _ in axes], shape, attributes, stored, offset)
        if recorded:
            in_records.append(variable)
        return name, variable

    def _attribute(self):
        name, kind, count = self._text(), self._number(4), self._number()
        stored = np.dtype(_TYPES[kind])
        values = self._take(count * stored.itemsize)
        return name, str(values, "utf-8", "replace") if kind == _TEXT else np.frombuffer(values, stored)

    def _list(self, tag, read):
        found, count = self._number(4), self._number()
        if found != tag and (found or count):
            raise ValueError(f"its header has the tag {found} where {tag} is expected")
        return [read() for _ in range(count)]

    def _text(self):
        return str(self._take(self._number()), "utf-8", "replace")

    def _number(self, width=None):
        return int.from_bytes(self._take(width or self.width), "big")

    def _take(self, count):
        """Return the next bytes, which end at a multiple of 4."""
        start, end = self.at, self.at + count
        if end > len(self.data):
            raise ValueError("its header ends early")
        self.at = end + -end % 4
        return self.data[start:end]
