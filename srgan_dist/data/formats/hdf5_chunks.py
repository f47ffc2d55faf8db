"""The chunks of HDF5 datasets, checked before the library decompresses them, which it does without bound.

https://support.hdfgroup.org/documentation/hdf5/latest/group___h5_z.html describes filters.
"""

import itertools
import math

import imagecodecs

from srgan_dist.data.formats.libraries import check_chunk, library
from srgan_dist.data.formats.raw import MOST_DEFLATED
from srgan_dist.data.volume import ImageError

_DEFLATE, _SHUFFLE, _FLETCHER32, _SZIP, _N_BIT, _SCALE_OFFSET = range(1, 7)  # numbers of filters
_UNCHECKED = 2**26  # bytes to which a chunk may inflate unchecked


def bounded(path, dataset):
    """Return what slices like a dataset, and raises ImageError for chunks of other sizes than its own.

    Raises ImageError for chunks that are too large, and for filters that are missing or compress twice.
    """
    return _Bounded(path, dataset) if dataset.chunks else dataset


class _Bounded:
    def __init__(self, path, dataset):
        check_chunk(path, dataset.chunks, dataset.dtype.itemsize)
        self.path, self.dataset, self.filters = path, dataset, _filters(path, dataset)
        self.shape, self.ndim, self.dtype = dataset.shape, dataset.ndim, dataset.dtype
        self.checked = set()  # corners of chunks

    def __getitem__(self, window):
        sides = zip(window, self.dataset.chunks, strict=True)
        starts = [range(part.start // side * side, part.stop, side) for part, side in sides]
        for corner in itertools.product(*starts):
            if corner not in self.checked:
                self._check(corner)
                self.checked.add(corner)
        return self.dataset[window]

    def _check(self, corner):
        chunk = self.dataset.id.get_chunk_info_by_coord(corner)
        most = _chunk_bytes(self.dataset) + 4  # of Fletcher32
        used = [code for number, code in enumerate(self.filters) if not chunk.filter_mask >> number & 1]
        large = _DEFLATE in used and MOST_DEFLATED * chunk.size > _UNCHECKED
        if not (large or _SZIP in used and chunk.size):
            return
        if chunk.size > (size := self.path.stat().st_size):
            raise ImageError(
                self.path,
                f"is damaged: the chunk at {corner} of {self.dataset.name} claims {chunk.size} bytes, the"
                f" file has {size}; copy it again",
            )
        _, data = self.dataset.id.read_direct_chunk(corner)
        if _SZIP in used:
            fits = int.from_bytes(data[:4], "little") <= most  # which the library allocates
        else:
            fits = _inflates(data, most)
        if not fits:
            raise ImageError(
                self.path,
                f"is damaged: the chunk at {corner} of {self.dataset.name} does not inflate to its {most - 4}"
                " bytes; copy it again",
            )


def _chunk_bytes(dataset):
    return math.prod(dataset.chunks) * dataset.dtype.itemsize


def _inflates(data, most):
    """Return whether data inflate to `most` bytes or fewer; by libdeflate, as zlib would double the time."""
    try:
        imagecodecs.deflate_decode(data, out=most)
    except imagecodecs.DeflateError:
        return False
    return True


def _filters(path, dataset):
    """Return the numbers of the filters of a dataset in their order."""
    h5py, properties = library("h5py", path), dataset.id.get_create_plist()
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    for code, _, parameters, name in filters:
        if not h5py.h5z.filter_avail(code):
            raise ImageError(
                path,
                f"is compressed with {name.decode(errors='replace') or 'a filter'} (HDF5 filter {code}),"
                " which is not available; save it with gzip or without compression",
            )
        values_and_bytes = parameters[2:5:2]
        if code in (_N_BIT, _SCALE_OFFSET) and math.prod(values_and_bytes) != _chunk_bytes(dataset):
            raise ImageError(path, f"is damaged: HDF5 filter {code} is not that of its chunks; copy it again")
    codes = [code for code, *_ in filters]
    if sum(code not in (_SHUFFLE, _FLETCHER32) for code in codes) > 1:
        raise ImageError(path, f"is compressed more than once (HDF5 filters {codes}); compress it once")
    return codes
