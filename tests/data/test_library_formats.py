"""Volumes that libraries read: known answers, voxel sizes, and files that are refused by name."""

import pickle

import library_samples as samples
import numpy as np
import pytest

from srgan_dist.data.image_files import read_header

VOXELS = samples.VOXELS
SIZES_UM = {"hdf5": (4, 3, 2), "gzip hdf5": (4, 3, 2), "ome-zarr": (4, 3, 2), "txm": (2.5, 2.5, 2.5)}
SIZES_UM |= dict.fromkeys(("netcdf 3", "netcdf 4", "dicom"), (4, 3, 2)) | {"dicom series": (4, 3, 2)}


@pytest.mark.parametrize("name", samples.WRITERS)
def test_voxels_and_their_size_are_those_that_were_written(tmp_path, name):
    path, _, _ = samples.WRITERS[name](tmp_path)
    volume = pickle.loads(pickle.dumps(read_header(path)))
    expected = VOXELS[::-1] if name == "dicom series" else VOXELS  # by position, which falls
    assert volume.shape == VOXELS.shape
    assert volume.dtype == {"compressed mat 5": np.float64, "netcdf 3": np.int32}.get(name, np.uint16)
    np.testing.assert_array_equal(np.stack(list(volume.pages())), expected)
    np.testing.assert_array_equal(volume.read((1, 1, 2), (2, 3, 2)), expected[1:3, 1:4, 2:4])
    if name in SIZES_UM:
        assert volume.voxel_sizes_um == pytest.approx(SIZES_UM[name])
    else:
        assert volume.voxel_sizes_um is None
