"""The metadata of Zarr arrays, versions 2 and 3, checked before a library acts on it.

Only numbers are accepted, and codecs that decode bytes: others may run code (pickle) or read other files.
"""

import json
import math
from typing import NamedTuple

import numpy as np

from srgan_dist.data.formats.libraries import check_chunk
from srgan_dist.data.volume import ImageError

FILES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")

_MOST_BYTES = 2**24  # of one file
_CODECS_2 = (None, "blosc", "zstd", "gzip", "zlib", "lz4")
_COMPRESSORS_3 = ("blosc", "zstd", "gzip")
_CODECS_3 = ("bytes", "transpose", *_COMPRESSORS_3, "crc32c")
_INDEX_CODECS = ("bytes", "crc32c")
_DTYPES_3 = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_DTYPES_3 += ("float32", "float64")


class ArrayMetadata(NamedTuple):
    """What the metadata of an array says."""

    version: int
    shape: tuple
    dtype: np.dtype
    chunk: tuple  # that is decoded as a whole
    stored: tuple  # chunks of this shape are stored in one file each
    content: dict  # of the file, without attributes

    @property
    def files(self):
        """The number of files that hold all chunks."""
        return math.prod(-(-size // side) for size, side in zip(self.shape, self.stored))


def read_attributes(folder):
    """Return the attributes of a group or an array, {} where it has none."""
    for name, key in (("zarr.json", "attributes"), (".zattrs", None)):
        if (folder / name).exists():
            content = _read_json(folder / name)
            attributes = content.get(key, {}) if key else content
            return attributes if isinstance(attributes, dict) else {}
    return {}


def read_array(folder):
    """Return the ArrayMetadata of a folder, None where it is no array; raises ImageError for what is not
    read.
    """
    if (folder / "zarr.json").exists():
        file, read = folder / "zarr.json", _array_3
    elif (folder / ".zarray").exists():
        file, read = folder / ".zarray", _array_2
    else:
        return None
    content = _read_json(file)
    content.pop("attributes", None)
    if file.name == "zarr.json" and content.get("node_type") == "group":
        return None
    try:
        metadata = read(file, content)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ImageError(file, f"is damaged: it is no metadata of a Zarr array ({error!r})") from None
    if metadata.dtype.kind not in "iuf":
        raise ImageError(file, f"has dtype {metadata.dtype}; only numbers are read")
    check_chunk(file, metadata.chunk, metadata.dtype.itemsize)
    return metadata


def _read_json(file):
    if file.stat().st_size > _MOST_BYTES:
        raise ImageError(file, f"is longer than {_MOST_BYTES} bytes, and no metadata of a Zarr array")
    try:
        content = json.loads(file.read_bytes(), parse_constant=str)  # NaN equals itself
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ImageError(file, "is damaged: it is no JSON object; copy the folder again")
    return content


def _array_2(file, content):
    if content.get("zarr_format") != 2 or content.get("filters"):
        problem = f"filters {content['filters']}" if content.get("filters") else "another version"
        raise ImageError(file, f"has {problem}; save the array without filters")
    codec = (content["compressor"] or {"id": None})["id"]
    if codec not in _CODECS_2:
        raise ImageError(file, f"is compressed with {codec!r}; use one of {', '.join(_CODECS_2[1:])}")
    if not isinstance(content["dtype"], str) or content["dtype"][1:2] not in ("i", "u", "f"):
        raise ImageError(file, f"has dtype {content['dtype']}; only numbers are read")
    shape, chunk = _sizes(file, content["shape"]), _sizes(file, content["chunks"], content["shape"])
    return ArrayMetadata(2, shape, np.dtype(content["dtype"]), chunk, chunk, content)


def _array_3(file, content):
    if content["data_type"] not in _DTYPES_3:
        raise ImageError(file, f"has data_type {content['data_type']}; use one of {', '.join(_DTYPES_3)}")
    if content["chunk_grid"]["name"] != "regular" or content.get("storage_transformers"):
        raise ImageError(file, "has chunks of unequal sizes, or a storage transformer; save plain chunks")
    shape = _sizes(file, content["shape"])
    stored = chunk = _sizes(file, content["chunk_grid"]["configuration"]["chunk_shape"], shape)
    codecs = content["codecs"]
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        shards = codecs[0]["configuration"]
        chunk, codecs = _sizes(file, shards["chunk_shape"], shape), shards["codecs"]
        _check_codecs(file, shards["index_codecs"], _INDEX_CODECS)
    _check_codecs(file, codecs, _CODECS_3)
    return ArrayMetadata(3, shape, np.dtype(content["data_type"]), chunk, stored, content)


def _check_codecs(file, codecs, known):
    names = [codec["name"] for codec in codecs]
    if unknown := [name for name in names if name not in known]:
        raise ImageError(file, f"uses the codec {unknown[0]!r}; use one of {', '.join(known)}")
    if len(compressors := [name for name in names if name in _COMPRESSORS_3]) > 1:
        raise ImageError(file, f"is compressed more than once ({', '.join(compressors)}); compress it once")


def _sizes(file, sizes, like=None):
    """Check a shape: positive integers, as many as `like` has."""
    whole = isinstance(sizes, list) and all(type(size) is int and 0 < size < 2**48 for size in sizes)
    if not whole or (like is not None and len(sizes) != len(like)):
        raise ImageError(file, f"has the shape {sizes}, which is none of an array; copy the folder again")
    return tuple(sizes)
