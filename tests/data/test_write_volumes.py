"""Volumes written block by block: what our own reader, and others, make of them."""

import math

import numpy as np
import pytest
import tifffile

from srgan_dist.data.image_files import read_header
from srgan_dist.data.volume import VOXEL_DTYPES, ImageError
from srgan_dist.data.write_volumes import FORMATS, create, open_created, parts_of
from srgan_dist.evaluation.super_resolve import tiles_of

SHAPE = (11, 13, 18)


def values(dtype):
    return np.arange(np.prod(SHAPE), dtype=np.int64).reshape(SHAPE).astype(dtype)


def write_blocks(path, voxels, sizes=None, side=5):
    """Write the blocks of a volume from the last to the first, half of them by a second writer."""
    writer = create(path, voxels.shape, voxels.dtype, sizes, side)
    for number, window in enumerate(reversed(list(tiles_of(voxels.shape, side)))):
        if number == 20:
            writer.close()
            writer = open_created(path, voxels.shape, voxels.dtype)
        writer.write([axis.start for axis in window], voxels[window])
        writer.flush()
    writer.close()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", VOXEL_DTYPES, ids=str)
def test_blocks_in_any_order_are_read_back(tmp_path, suffix, dtype):
    path, voxels = tmp_path / f"out{suffix}", values(dtype)
    write_blocks(path, voxels, (4.0, 3.1, 1.3))
    volume = read_header(path)
    assert (volume.shape, volume.dtype) == (SHAPE, dtype)
    assert np.array_equal(volume.read((0, 0, 0), SHAPE), voxels)
    assert volume.voxel_sizes_um == (None if suffix == ".npy" else pytest.approx((4.0, 3.1, 1.3)))
    assert sorted(tmp_path.iterdir()) == sorted(parts_of(path))


@pytest.mark.parametrize("suffix", FORMATS)
def test_unknown_voxel_sizes_stay_unknown(tmp_path, suffix):
    write_blocks(tmp_path / f"out{suffix}", values(np.uint8))
    assert read_header(tmp_path / f"out{suffix}").voxel_sizes_um is None


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_an_unknown_size_of_slices_leaves_those_of_pixels(tmp_path, suffix):
    write_blocks(tmp_path / f"out{suffix}", values(np.uint8), (None, 2.0, 1.5))
    assert read_header(tmp_path / f"out{suffix}").voxel_sizes_um == (None, 2.0, 1.5)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_volume_of_zeros_is_complete(tmp_path, suffix):
    write_blocks(tmp_path / f"out{suffix}", np.zeros(SHAPE, np.uint16))
    volume = read_header(tmp_path / f"out{suffix}")
    assert not volume.read((0, 0, 0), SHAPE).any()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_missing_bytes_are_an_upper_bound_that_falls_to_none(tmp_path, suffix, dtype):
    shape, random = (64, 64, 128), np.random.default_rng(0)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    voxels = random.integers(0, 256, size, np.uint8).view(dtype).reshape(shape)  # cannot be compressed
    writer = create(tmp_path / f"out{suffix}", shape, dtype, None, 64)
    needed, used = writer.missing_bytes(), used_below(tmp_path)
    for corner in (0, 64):
        writer.write((0, 0, corner), voxels[:, :, corner : corner + 64])
    writer.flush()
    block = 2**12  # of the disk: a header fills a part of one
    assert used_below(tmp_path) - used <= needed + block and needed <= 1.05 * voxels.nbytes
    assert used_below(tmp_path) >= voxels.nbytes and writer.missing_bytes() == 0
    writer.close()


def used_below(folder):
    """Return the bytes of the disk that the files below a folder take."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def test_a_tiff_above_4_gb_is_a_bigtiff_and_sparse(tmp_path):
    path = tmp_path / "large.tif"
    writer = create(path, (1100, 2000, 2000), np.uint8, (1.0, 1.0, 1.0))
    writer.write((1090, 1990, 1990), np.full((10, 10, 10), 7, np.uint8))
    writer.close()
    assert path.stat().st_blocks * 512 < 1e8
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff and len(tiff.pages) == 1100
    volume = read_header(path)
    assert (volume.read((1089, 1989, 1989), (11, 11, 11)) == 7).sum() == 1000


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ImageError, match="out.png: .*ends in one of .npy, .tif, .tiff, .mhd, .zarr"):
        create(tmp_path / "out.png", SHAPE, np.uint8)
