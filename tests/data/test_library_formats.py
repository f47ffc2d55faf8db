"""Volumes that libraries read: known answers and voxel sizes."""

import pickle
import struct

import h5py
import library_samples as samples
import numcodecs
import numpy as np
import pytest
import scipy.io
import zarr
from compound_file import txm
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from srgan_dist.data.image_files import find_images, read_header, read_info
from srgan_dist.data.volume import ImageError

VOXELS = samples.VOXELS
SIZES_UM = {"hdf5": (4, 3, 2), "gzip hdf5": (4, 3, 2), "ome-zarr": (4, 3, 2), "txm": (2.5, 2.5, 2.5)}
SIZES_UM |= dict.fromkeys(("ome-zarr level", "netcdf 3", "netcdf 4", "dicom"), (4, 3, 2)) | {
    "dicom series": (4, 3, 2)
}


def voxels_of(path):
    volume = read_header(path)
    return volume.read((0, 0, 0), volume.shape)


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


# --- MATLAB ---


@pytest.mark.parametrize("write", [samples.mat_5, samples.compressed_mat_5, samples.mat_73])
def test_the_same_matlab_array_is_the_same_volume_from_every_version(tmp_path, write, monkeypatch):
    x, y, z = np.meshgrid(np.arange(5), np.arange(4), np.arange(3), indexing="ij")
    monkeypatch.setattr(
        samples, "VOXELS", (x + 10 * y + 100 * z).astype(np.uint16).T
    )  # of MATLAB's (x, y, z)
    volume = read_header(write(tmp_path)[0])
    assert volume.shape == (3, 4, 5)
    assert volume.read((2, 3, 1), (1, 1, 1)) == 231  # z = 2, y = 3, x = 1


@pytest.mark.parametrize("compressed", [False, True])
def test_scalars_text_and_complex_arrays_beside_the_volume_do_not_count(tmp_path, compressed):
    others = {"voxel": 2.5, "note": "dry", "mask": VOXELS > 9, "cell": np.array([VOXELS], object)}
    others |= {"wave": VOXELS + 1j, "pair": {"a": VOXELS}}
    scipy.io.savemat(tmp_path / "a.mat", others | {"temp": VOXELS.T}, do_compression=compressed)
    np.testing.assert_array_equal(voxels_of(tmp_path / "a.mat"), VOXELS)


def test_one_matrix_of_two_axes_is_a_volume_of_one_slice(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"page": VOXELS[1].T, "line": VOXELS[1, :1]})
    np.testing.assert_array_equal(voxels_of(tmp_path / "a.mat"), VOXELS[1:2])


def test_matlab_stores_doubles_that_are_small_integers_as_such(tmp_path):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    parts = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">iii", 5, 4, 3))
    small_name = struct.pack(">HH4s", 1, 1, b"t")  # an element of up to 4 bytes
    matrix = parts + small_name + element(2, bytes(range(60)))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, matrix))
    voxels = voxels_of(tmp_path / "a.mat")
    assert voxels.dtype == np.float64
    np.testing.assert_array_equal(voxels, np.arange(60).reshape(3, 4, 5))


# --- HDF5 and NetCDF ---


def test_a_soft_link_is_not_a_second_volume(tmp_path):
    path, _, _ = samples.hdf5(tmp_path)
    with h5py.File(path, "a") as file:
        file["default"] = h5py.SoftLink("/entry/tomo")
        file["entry/loop"] = file["/"]
    np.testing.assert_array_equal(voxels_of(path), VOXELS)


def test_voxel_sizes_with_a_unit_and_of_all_axes_at_once(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tomo"] = VOXELS
        file["tomo"].attrs["voxel_size"] = 0.0025
    assert read_header(tmp_path / "a.h5").voxel_sizes_um is None  # of no unit
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["tomo"].attrs["unit"] = np.bytes_("mm")
    assert read_header(tmp_path / "a.h5").voxel_sizes_um == pytest.approx((2.5, 2.5, 2.5))


@pytest.mark.parametrize("version", [1, 2])
def test_netcdf_3_with_records_of_several_variables(tmp_path, version):
    with scipy.io.netcdf_file(tmp_path / "a.nc", "w", version=version) as file:
        for name, size in zip("zyx", (None, 4, 5)):
            file.createDimension(name, size)
        for name, axes in {"z": "z", "tomo": "zyx", "flag": "z"}.items():
            file.createVariable(name, "h" if name == "tomo" else "b", tuple(axes))
            file.variables[name][:] = (VOXELS // 2) if name == "tomo" else np.arange(3)
    volume = read_header(tmp_path / "a.nc")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), VOXELS // 2)
    np.testing.assert_array_equal(volume.read((2, 1, 1), (1, 2, 3)), VOXELS[2:, 1:3, 1:4] // 2)


def test_unsigned_bytes_and_voxel_sizes_as_mango_writes_them(tmp_path):
    with scipy.io.netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, size in zip("zyx", VOXELS.shape):
            file.createDimension(f"tomo_{name}dim", size)
        tomo = file.createVariable("tomo", "b", tuple(f"tomo_{name}dim" for name in "zyx"))
        tomo[:] = (VOXELS >> 8).astype(np.uint8).view(np.int8)
        tomo._Unsigned = "true"
        file.voxel_size_xyz, file.voxel_unit = [0.002, 0.003, 0.004], "mm"
    volume = read_header(tmp_path / "a.nc")
    assert volume.dtype == np.uint8 and volume.voxel_sizes_um == pytest.approx((4, 3, 2))
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), VOXELS >> 8)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"scaleoffset": 0},
        {"fletcher32": True},
    ],
    ids=str,
)
def test_filters_of_hdf5(tmp_path, options):
    voxels = np.random.default_rng(1).integers(0, 2**16, (3, 200, 200), np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("tomo", data=voxels, chunks=(2, 190, 190), **options)
    np.testing.assert_array_equal(voxels_of(tmp_path / "a.h5"), voxels)


# --- Zarr ---


def test_an_ome_zarr_of_version_2_and_a_scale_for_all_levels(tmp_path):
    path, _, _ = samples.ome_zarr(tmp_path, version=2)
    group = zarr.open_group(path)
    (image,) = group.attrs["multiscales"]
    step = {"type": "scale", "scale": [1, 1, 10, 10, 10]}
    group.attrs["multiscales"] = [image | {"coordinateTransformations": [step]}]
    volume = read_header(path)
    assert volume.voxel_sizes_um == pytest.approx((40, 30, 20))
    np.testing.assert_array_equal(voxels_of(path), VOXELS)


def test_big_endian_values_in_fortran_order(tmp_path):
    path, _, _ = samples.zarr_of(tmp_path, 2, chunks=(2, 3, 2), order="F")
    metadata = path / ".zarray"
    metadata.write_text(metadata.read_text().replace("<u2", ">u2"))
    np.testing.assert_array_equal(voxels_of(path), VOXELS.view(">u2").astype(np.uint16))


@pytest.mark.parametrize("version", [2, 3])
def test_a_block_touches_only_its_own_chunks(tmp_path, version):
    path, _, _ = samples.zarr_of(tmp_path, version, chunks=(2, 2, 2))
    (path / ("1.1.2" if version == 2 else "c/1/1/2")).write_bytes(b"damaged")
    volume = read_header(path)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (2, 4, 4)), VOXELS[:2, :, :4])
    with pytest.raises(ImageError, match="a.zarr: cannot be read"):
        volume.read((0, 0, 0), volume.shape)


COMPRESSORS = {
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    **{f"blosc {name}": numcodecs.Blosc(name) for name in numcodecs.blosc.list_compressors()},
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressors_of_zarr_2(tmp_path, name):
    path, _, _ = samples.zarr_of(tmp_path, 2, chunks=(2, 3, 2), compressors=COMPRESSORS[name])
    np.testing.assert_array_equal(voxels_of(path), VOXELS)


@pytest.mark.parametrize("shards", [None, (2, 4, 6)])
@pytest.mark.parametrize(
    "compressors",
    [
        None,
        zarr.codecs.BloscCodec(),
        zarr.codecs.GzipCodec(),
        (zarr.codecs.ZstdCodec(checksum=True), zarr.codecs.Crc32cCodec()),
        (zarr.codecs.Crc32cCodec(), zarr.codecs.GzipCodec()),
    ],
    ids=["none", "blosc", "gzip", "zstd crc32c", "crc32c gzip"],
)
def test_compressors_of_zarr_3(tmp_path, compressors, shards):
    options = {"filters": zarr.codecs.TransposeCodec(order=(2, 0, 1)), "compressors": compressors}
    path, _, _ = samples.zarr_of(tmp_path, 3, chunks=(2, 2, 3), shards=shards, **options)
    np.testing.assert_array_equal(voxels_of(path), VOXELS)


def test_a_store_among_files_is_one_volume(tmp_path):
    samples.zarr_3(tmp_path)
    samples.hdf5(tmp_path)
    assert find_images(tmp_path) == ([tmp_path / "a.h5", tmp_path / "a.zarr"], [])


# --- Zeiss and DICOM ---


@pytest.mark.parametrize("dtype, kind", [(np.uint8, 3), (np.float32, 10)])
def test_txm_of_other_types_with_more_than_100_slices(tmp_path, dtype, kind):
    voxels = np.arange(102 * 20 * 60).reshape(102, 20, 60).astype(dtype)
    (tmp_path / "a.txm").write_bytes(txm(voxels, kind))
    np.testing.assert_array_equal(voxels_of(tmp_path / "a.txm"), voxels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_of_other_byte_orders(tmp_path, syntax):
    samples.write_dicom(tmp_path / "a.dcm", VOXELS, syntax=syntax)
    np.testing.assert_array_equal(voxels_of(tmp_path / "a.dcm"), VOXELS)


def test_a_series_is_ordered_by_number_where_it_has_no_positions(tmp_path):
    for number, page in enumerate(VOXELS):
        samples.write_dicom(tmp_path / f"{9 - number}.dcm", page, InstanceNumber=number + 1)
    volume = read_info(tmp_path)
    np.testing.assert_array_equal(np.stack(list(volume.pages())), VOXELS)
    assert volume.voxel_sizes_um == (None, pytest.approx(3), pytest.approx(2))


def test_rescaled_values_are_those_that_the_file_means(tmp_path):
    samples.write_dicom(tmp_path / "a.dcm", VOXELS.astype(np.int16), RescaleSlope=2, RescaleIntercept=-1024)
    volume = read_header(tmp_path / "a.dcm")
    assert volume.dtype == np.float32
    expected = 2 * VOXELS.astype(np.int16).astype(np.float32) - 1024
    np.testing.assert_array_equal(volume.read((1, 0, 0), (2, 4, 5)), expected[1:])
