"""Decompression of the chunks of a Zarr store, within the bytes that its metadata give a chunk.

The codecs of the library have no bound: a chunk of some kilobytes could become gigabytes. This module needs
the package zarr.
"""

import asyncio
import math
from dataclasses import dataclass
from functools import partial

import imagecodecs
from numcodecs.abc import Codec
from zarr.abc.codec import BytesBytesCodec

_CRC_BYTES = 4  # that the codec crc32c adds to a chunk
_BLOSC_HEADER = 16


def _decode_blosc(data, out):
    if len(data) < _BLOSC_HEADER or int.from_bytes(data[12:16], "little") > len(data):
        raise ValueError("a chunk is cut short")  # the library would read beyond its end
    return imagecodecs.blosc_decode(data, out=out)


_DECODERS = {
    "blosc": _decode_blosc,
    "gzip": imagecodecs.gzip_decode,
    "lz4": partial(imagecodecs.lz4_decode, header=True),
    "zlib": imagecodecs.deflate_decode,
    "zstd": imagecodecs.zstd_decode,
}


def _decompress(name, data, limit):
    """Decompress bytes; raises ValueError or RuntimeError for damaged ones, and for more than `limit`."""
    if not data:
        raise ValueError("a chunk is empty")
    return _DECODERS[name](data, out=limit)


@dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """A codec of version 3 that decompresses at most `limit` bytes."""

    name: str
    limit: int
    is_fixed_size = False

    def compute_encoded_size(self, input_byte_length, chunk_spec):
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes, chunk_spec):
        data = await asyncio.to_thread(_decompress, self.name, chunk_bytes.to_bytes(), self.limit)
        return chunk_spec.prototype.buffer.from_bytes(data)


class _Bounded2(Codec):
    """A compressor of version 2 that decompresses at most `limit` bytes."""

    codec_id = "bounded"

    def __init__(self, name, limit):
        self.name, self.limit = name, limit

    def encode(self, buf):
        raise NotImplementedError

    def decode(self, buf, out=None):
        return _decompress(self.name, bytes(buf), self.limit)


def bounded(metadata):
    """Return ArrayMetadata as the library takes them, with codecs that are bounded by the chunk."""
    content, limit = metadata.content, math.prod(metadata.chunk) * metadata.dtype.itemsize
    if metadata.version == 2:
        compressor = content["compressor"] and _Bounded2(content["compressor"]["id"], limit)
        return content | {"compressor": compressor, "filters": None}
    return content | {"codecs": _bounded_codecs(content["codecs"], limit)}


def _bounded_codecs(codecs, limit):
    if codecs[0]["name"] == "sharding_indexed":
        shards = codecs[0]["configuration"]
        inner = _bounded_codecs(shards["codecs"], limit)
        return [codecs[0] | {"configuration": shards | {"codecs": inner}}]
    limit += _CRC_BYTES * sum(codec["name"] == "crc32c" for codec in codecs)
    return [_Bounded(codec["name"], limit) if codec["name"] in _DECODERS else codec for codec in codecs]
