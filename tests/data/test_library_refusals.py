"""Files of formats that libraries read which are refused, by name and before memory is taken."""

import json
import os
import sys

import h5py
import library_samples as samples
import numcodecs
import numpy as np
import pytest
import scipy.io
import zarr
from compound_file import txm
from pydicom.uid import JPEG2000Lossless

from srgan_dist.data.image_files import read_header
from srgan_dist.data.volume import ImageError

VOXELS = samples.VOXELS


def refused(path, words):
    with pytest.raises(ImageError, match=words) as raised:
        read_header(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "name, package",
    [("hdf5", "h5py"), ("mat 7.3", "h5py"), ("zarr 3", "zarr"), ("txm", "olefile"), ("dicom", "pydicom")],
)
def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch, name, package):
    path, _, _ = samples.WRITERS[name](tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    refused(path, rf'package {package}.*pip install "srgan_dist\[volumes\]"')


# Not zarr 2, zarr 3 and ome-zarr: their headers are cut by the fuzz test
@pytest.mark.parametrize("name", [name for name in samples.WRITERS if "zarr" not in name])
def test_a_file_that_is_cut_short_is_refused_before_it_is_read(tmp_path, name):
    path, file, _ = samples.WRITERS[name](tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ImageError, match="cut short|truncated|cannot be read|ends early"):
        volume = read_header(path)
        volume.read((0, 0, 0), volume.shape)


# --- MATLAB ---


def test_several_or_no_arrays_are_listed(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"first": VOXELS.T, "second": VOXELS.T})
    refused(tmp_path / "a.mat", "holds 2 arrays.*first 3x4x5, second 3x4x5")
    scipy.io.savemat(tmp_path / "a.mat", {"note": "dry"})
    refused(tmp_path / "a.mat", "holds 0 arrays.*none")


def test_an_array_larger_than_its_file_is_refused(tmp_path):
    path, _, _ = samples.mat_5(tmp_path)
    shape, huge = (np.array(sizes, "<i4").tobytes() for sizes in ((5, 4, 3), (2**30, 4, 3)))
    data = path.read_bytes()
    assert data.count(shape) == 1
    path.write_bytes(data.replace(shape, huge))
    refused(path, "bytes are not 3x4x1073741824 values")


# --- HDF5 and NetCDF ---


def test_hdf5_with_several_or_no_volumes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["angles"] = np.arange(3)
    refused(tmp_path / "a.h5", "holds 0 datasets.*angles 3")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["one"], file["two"] = VOXELS, VOXELS
    refused(tmp_path / "a.h5", "holds 2 datasets.*one 3x4x5, two 3x4x5")


def test_hdf5_that_names_other_files(tmp_path):
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("tomo", VOXELS.shape, "u2", external=[("secret.raw", 0, VOXELS.nbytes)])
    refused(tmp_path / "a.h5", "'tomo' is stored in other files")
    layout = h5py.VirtualLayout(VOXELS.shape, "u2")
    layout[:] = h5py.VirtualSource("other.h5", "tomo", VOXELS.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
    refused(tmp_path / "a.h5", "'virtual' is a virtual dataset")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tomo"], file["inside/link"] = VOXELS, h5py.ExternalLink("other.h5", "/tomo")
    refused(tmp_path / "a.h5", "'inside/link' is a link to another file .other.h5")


@pytest.mark.parametrize(
    "shape, chunks, words",
    [
        ((2**20, 2**15, 2**15), (64, 64, 64), "parts without data"),
        ((2**20, 2**15, 2**15), None, "parts without data"),
        ((1024, 1024, 512), (1024, 1024, 512), "chunks of 1024x1024x512 voxels, 536,870,912 bytes"),
        ((4, 5, 3), None, "looks like colour channels"),
    ],
)
def test_hdf5_without_the_voxels_that_it_claims_and_other_shapes(tmp_path, shape, chunks, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("tomo", shape, "u1", chunks=chunks)
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    refused(tmp_path / "a.h5", words)


def test_hdf5_with_scaled_values(tmp_path):
    path, _, _ = samples.hdf5(tmp_path)
    with h5py.File(path, "a") as file:
        file["entry/tomo"].attrs["scale_factor"] = 0.5
    refused(path, "tomo has scale_factor 0.5; save the values without scaling")


def test_a_netcdf_variable_that_is_larger_than_its_file(tmp_path):
    path, _, _ = samples.netcdf_3(tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b"z\0\0\0" + (3).to_bytes(4, "big"), b"z\0\0\0" + (2**30).to_bytes(4, "big"))
    )
    refused(path, "cut short: tomo ends at byte")
    (tmp_path / "b.nc").write_bytes(b"something else")
    refused(tmp_path / "b.nc", "is not a NetCDF file")


# --- Zarr ---


def edit(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


def test_zarr_metadata_that_would_run_code_is_never_given_to_the_library(tmp_path):
    path, header, _ = samples.zarr_2(tmp_path)
    original = header.read_text()
    edit(header, filters=[{"id": "pickle", "protocol": 5}])
    refused(path, "filters .*pickle")
    header.write_text(original)
    edit(header, compressor={"id": "pickle"})
    refused(path, "compressed with 'pickle'")
    header.write_text(original)
    edit(header, dtype="|O", filters=[{"id": "pickle"}])
    refused(path, "pickle")
    edit(header, dtype="|O", filters=None)
    refused(path, r"dtype \|O; only numbers are read")
    assert "pickle" in numcodecs.registry.codec_registry  # which zarr would use


def test_zarr_codecs_that_are_not_known_to_be_harmless(tmp_path):
    path, header, _ = samples.zarr_3(tmp_path)
    (shards,) = json.loads(header.read_text())["codecs"]
    edit(header, codecs=[{"name": "numcodecs.pickle"}])
    refused(path, "codec 'numcodecs.pickle'")
    shards["configuration"]["codecs"].append({"name": "elsewhere.run"})
    edit(header, codecs=[shards])
    refused(path, "codec 'elsewhere.run'")


def test_zarr_links_that_lead_out_of_the_store(tmp_path):
    path, _, _ = samples.zarr_2(tmp_path)
    (path / "inside").symlink_to("0.0.0")
    read_header(path)
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "0.0.0").unlink()
    (path / "0.0.0").symlink_to("../secret")
    with pytest.raises(ImageError, match="a.zarr/0.0.0: leads out of its Zarr store"):
        read_header(path)


def test_zarr_without_the_chunks_that_it_claims(tmp_path):
    path, header, _ = samples.zarr_2(tmp_path)
    edit(header, shape=[2**20, 2**15, 2**15])
    refused(path, "not complete: 12 of the 1")
    edit(header, shape=[3, 4, 5], chunks=[2**10, 2**10, 2**9])
    refused(path, "chunks of 1024x1024x512")
    edit(header, shape=[3, -4, 5])
    refused(path, r"shape \[3, -4, 5\]")


def test_chunks_of_zarr_that_are_not_stored_are_told(tmp_path):
    path, header, _ = samples.zarr_2(tmp_path)
    assert read_header(path).notes == ()
    (path / "0.1.1").unlink()
    edit(header, fill_value=7)
    (note,) = read_header(path).notes
    assert note.startswith(
        f"{path}: 1 of the 12 chunks of its array (8.3 %) are not stored, so their voxels are 7: chunks of"
        " one value are left out, but a copy that was cut short lacks some too."
    )


def test_zarr_with_several_arrays_times_or_no_folder(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in ("one", "two"):
        group.create_array(name, shape=(3, 4, 5), dtype="u1")[:] = 1
    refused(tmp_path / "a.zarr", "holds 2 arrays.*one 3x4x5, two 3x4x5")
    path, header, _ = samples.ome_zarr(tmp_path)
    metadata = path / "0" / "zarr.json"
    edit(metadata, shape=[2, 1, 3, 4, 5])
    refused(path, "axes t 2, c 1, z 3, y 4, x 5; only z, y, x are read")
    (tmp_path / "b.zarr").write_bytes(b"zip")
    refused(tmp_path / "b.zarr", "is a file; a Zarr store is a folder")


# --- Zeiss and DICOM ---


def test_txm_without_the_slices_that_it_claims(tmp_path):
    data = txm(VOXELS, 5)
    assert data.count(b"\3\0\0\0".ljust(64, b"\0")) == 1  # NoOfImages
    (tmp_path / "a.txm").write_bytes(data.replace(b"\3\0\0\0".ljust(64, b"\0"), b"\4\0\0\0".ljust(64, b"\0")))
    refused(tmp_path / "a.txm", r"slice 3 \(ImageData1/Image4\) is missing")
    (tmp_path / "a.txm").write_bytes(txm(VOXELS, 10))
    refused(tmp_path / "a.txm", "slice 0.* is 40 bytes, 4x5 pixels are 80 bytes")
    (tmp_path / "a.txm").write_bytes(txm(VOXELS, 6))
    refused(tmp_path / "a.txm", "DataType 6; only 3, 5 and 10")


def test_projections_are_no_slices(tmp_path):
    (tmp_path / "a.txrm").write_bytes(txm(VOXELS, 5))
    refused(tmp_path / "a.txrm", "holds the projections of a scan")


@pytest.mark.parametrize(
    "elements, words",
    [
        ({"syntax": JPEG2000Lossless}, "stored as JPEG 2000 .*save it uncompressed"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "stored as MONOCHROME1"),
        ({"BitsStored": 12, "HighBit": 15}, "has 12.* of 16.* bits"),
        ({"Rows": 2**15, "Columns": 2**15}, "cut short"),
    ],
)
def test_dicom_pixels_that_are_not_read(tmp_path, elements, words):
    samples.write_dicom(tmp_path / "a.dcm", VOXELS, **elements)
    refused(tmp_path / "a.dcm", words)


def test_a_series_that_is_mixed_or_misses_a_slice(tmp_path):
    for number in (0, 1, 2, 4):
        samples.write_dicom(tmp_path / f"{number}.dcm", VOXELS[0], ImagePositionPatient=[0, 0, number / 9])
    refused(tmp_path, "missing or there twice: 2.dcm and 4.dcm are 0.222")
    samples.write_dicom(tmp_path / "4.dcm", VOXELS[0], ImagePositionPatient=[0, 0, 1 / 9])
    refused(tmp_path, "missing or there twice: 1.dcm and 4.dcm are 0 apart")
    samples.write_dicom(tmp_path / "4.dcm", VOXELS[0], SeriesInstanceUID="1.2.4")
    with pytest.raises(ImageError, match="4.dcm: has another SeriesInstanceUID than 0.dcm"):
        read_header(tmp_path)
    samples.write_dicom(tmp_path / "4.dcm", VOXELS[0, :3])
    with pytest.raises(ImageError, match="4.dcm: is 1x3x5 uint16, 0.dcm is 1x4x5 uint16"):
        read_header(tmp_path)


def test_a_pipe_in_a_series_is_named(tmp_path, no_waiting):
    slices = sorted(samples.dicom_series(tmp_path)[0].iterdir())
    slices[1].unlink()
    os.mkfifo(slices[1])
    with pytest.raises(ImageError, match=f"{slices[1].name}: is no regular file"):
        read_header(slices[1].parent)
