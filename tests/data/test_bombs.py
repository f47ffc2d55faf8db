"""Chunks of some kilobytes that would become gigabytes: refused by name, before they take memory."""

import json
import struct
import zlib

import h5py
import library_samples as samples
import numpy as np
import pytest

from srgan_dist.data.image_files import read_header
from srgan_dist.data.volume import ImageError

pytestmark = pytest.mark.usefixtures("little_memory")
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def deflated(wbits=zlib.MAX_WBITS):
    """Return 1 GiB of zeros, without their right checksum: a mebibyte of them again and again."""
    engine, zeros = zlib.compressobj(9, wbits=wbits), bytes(2**20)
    first, again = (engine.compress(zeros) + engine.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 1023 + engine.flush()


def zstandard():
    """Return 1 GiB of zeros in blocks that repeat one byte, in a frame that does not say its size."""
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * 2**13 + b"\1\0\0"


BOMBS = {
    "gzip": lambda: deflated(zlib.MAX_WBITS | 16),
    "zlib": deflated,
    "zstd": zstandard,
    "lz4": lambda: struct.pack("<I", 2**30) + b"\x1f\0\1\0" + b"\xff" * 2**22,
    "blosc": lambda: struct.pack("<4B3I", 2, 1, 0, 1, 2**30, 2**18, 2**14) + bytes(2**14 - 16),
}


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def check_refused(path, words):
    volume = read_header(path)
    with pytest.raises(ImageError, match=words) as raised:
        volume.read((0, 0, 0), (1, 1, 1))
    assert str(path) in str(raised.value) and not isinstance(raised.value.__cause__, MemoryError)


@pytest.mark.parametrize("codec", BOMBS)
def test_a_chunk_of_zarr_2(tmp_path, codec):
    path, header, _ = samples.zarr_of(tmp_path, 2, chunks=(2, 2, 2))
    edit(header, compressor={"id": codec})
    (path / "0.0.0").write_bytes(BOMBS[codec]())
    check_refused(path, "it is damaged .*returned")  # by the decoder, not for want of memory


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_chunk_of_zarr_3(tmp_path, codec, sharded):
    path, header, _ = samples.zarr_of(tmp_path, 3, chunks=(2, 2, 2))
    data, codecs = BOMBS[codec](), [BYTES, {"name": codec, "configuration": {}}]
    if sharded:
        data += struct.pack("<QQ", 0, len(data))  # the index of a shard of one chunk
        shards = {"chunk_shape": [2, 2, 2], "codecs": codecs, "index_codecs": [BYTES]}
        codecs = [{"name": "sharding_indexed", "configuration": shards}]
    edit(header, codecs=codecs)
    (path / "c/0/0/0").write_bytes(data)
    check_refused(path, "it is damaged .*returned")  # by the decoder, not for want of memory


def test_a_chain_of_compressors_of_zarr(tmp_path):
    path, header, _ = samples.zarr_of(tmp_path, 3, chunks=(2, 2, 2))
    edit(header, codecs=[BYTES, *[{"name": name, "configuration": {}} for name in ("zstd", "gzip")]])
    with pytest.raises(ImageError, match="zarr.json: is compressed more than once .zstd, gzip.; compress it"):
        read_header(path)


def test_a_chunk_of_blosc_that_is_cut_short(tmp_path):
    path, header, _ = samples.zarr_of(tmp_path, 2, chunks=(2, 2, 2))
    edit(header, compressor={"id": "blosc"})
    (path / "0.0.0").write_bytes(struct.pack("<4B3I", 2, 1, 0, 1, 16, 16, 2**20))
    check_refused(path, "a chunk is cut short")


def test_a_chunk_of_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("tomo", (6, 4, 5), "u2", chunks=(3, 4, 5), compression="gzip")
        dataset[:3] = samples.VOXELS
        dataset.id.write_direct_chunk((3, 0, 0), deflated())
    volume = read_header(tmp_path / "a.h5")
    np.testing.assert_array_equal(volume.read((0, 0, 0), (3, 4, 5)), samples.VOXELS)
    with pytest.raises(ImageError, match=r"a.h5: is damaged: the chunk at \(3, 0, 0\) of /tomo does not"):
        volume.read((2, 0, 0), (2, 4, 5))


def test_a_chunk_of_hdf5_that_claims_more_bytes_than_the_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("tomo", (3, 4, 5), "u2", chunks=(3, 4, 5), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), bytes(12_345))
    data = (tmp_path / "a.h5").read_bytes()
    assert data.count(struct.pack("<II", 12_345, 0)) == 1  # size and mask of filters
    (tmp_path / "a.h5").write_bytes(
        data.replace(struct.pack("<II", 12_345, 0), struct.pack("<II", 2**32 - 1, 0))
    )
    check_refused(tmp_path / "a.h5", r"is damaged: the chunk at \(0, 0, 0\) of /tomo claims 4294967295 bytes")


def test_a_chain_of_compressors_of_hdf5(tmp_path):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((3, 4, 5))
    properties.set_deflate(9)
    properties.set_filter(h5py.h5z.FILTER_LZF)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3, 4, 5))
        tomo = h5py.h5d.create(file.id, b"tomo", h5py.h5t.STD_U16LE, space, properties)
        tomo.write_direct_chunk((0, 0, 0), b"anything")
    with pytest.raises(ImageError, match=r"compressed more than once \(HDF5 filters \[1, 32000\]\)"):
        read_header(tmp_path / "a.h5")


def test_a_coordinate_of_netcdf_4(tmp_path):
    path = tmp_path / "a.nc"
    with h5py.File(path, "w") as file:
        file["tomo"], file["z"], file["y"] = samples.VOXELS, np.arange(3), np.arange(4)
        file.create_dataset("x", (5,), "f8", chunks=(5,), compression="gzip")
        file["x"].id.write_direct_chunk((0,), deflated())
    with pytest.raises(ImageError, match=r"a.nc: is damaged: the chunk at \(0,\) of /x does not inflate"):
        read_header(path)


@pytest.mark.skipif(not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP), reason="HDF5 without szip")
def test_a_chunk_of_hdf5_that_claims_another_size(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("tomo", (3, 4, 8), "u2", chunks=(3, 4, 8), compression="szip")
        dataset.id.write_direct_chunk((0, 0, 0), struct.pack("<I", 2**31) + bytes(100))
    check_refused(tmp_path / "a.h5", "is damaged: the chunk at")
