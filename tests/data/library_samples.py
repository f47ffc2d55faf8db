"""Tiny valid files of the formats that libraries read, written with the library itself, as volume_samples."""

import h5py
import numpy as np
import pydicom.encaps
import scipy.io
import zarr
from compound_file import txm
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

VOXELS = (np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5) * 771 + 5).astype(np.uint16)


def whole(path):
    return path, path, path.stat().st_size


def mat_5(folder):
    scipy.io.savemat(folder / "a.mat", {"temp": VOXELS.T})
    return whole(folder / "a.mat")


def compressed_mat_5(folder):
    scipy.io.savemat(folder / "a.mat", {"temp": VOXELS.T.astype(float)}, do_compression=True)
    return whole(folder / "a.mat")


def write_mat_73(path, voxels):
    """Write as MATLAB does: HDF5 behind 512 bytes of text, [z, y, x] for MATLAB's (x, y, z)."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["temp"] = voxels
        file["temp"].attrs["MATLAB_class"] = np.bytes_(voxels.dtype.name)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def mat_73(folder):
    write_mat_73(folder / "a.mat", VOXELS)
    return whole(folder / "a.mat")


def hdf5(folder, **options):
    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset("entry/tomo", data=VOXELS, **options)
        dataset.attrs["element_size_um"] = [4.0, 3.0, 2.0]
        file["entry/angles"] = np.arange(3.0)
    return whole(folder / "a.h5")


def gzip_hdf5(folder):
    return hdf5(folder, chunks=(2, 2, 2), compression="gzip", shuffle=True)


def netcdf_3(folder, **options):
    with scipy.io.netcdf_file(folder / "a.nc", "w", **options) as file:
        for name, size, step in zip("zyx", VOXELS.shape, (0.004, 0.003, 0.002)):
            file.createDimension(name, size)
            file.createVariable(name, "d", (name,))[:] = np.arange(size) * step
            file.variables[name].units = "mm"
        file.createVariable("tomo", "i", tuple("zyx"))[:] = VOXELS
    return whole(folder / "a.nc")


def netcdf_4(folder):
    with h5py.File(folder / "a.nc", "w") as file:
        file["tomo"] = VOXELS
        for axis, (name, size, step) in enumerate(zip("zyx", VOXELS.shape, (0.004, 0.003, 0.002))):
            file[name] = np.arange(size) * step
            file[name].make_scale(name)
            file[name].attrs["units"] = np.bytes_("mm")  # of fixed length, as NetCDF's own library writes it
            file["tomo"].dims[axis].attach_scale(file[name])
    return whole(folder / "a.nc")


def zarr_2(folder):
    return zarr_of(folder, 2, chunks=(2, 2, 2))


def zarr_3(folder):
    return zarr_of(folder, 3, chunks=(1, 2, 2), shards=(2, 4, 4))


def zarr_of(folder, version, **options):
    array = zarr.create_array(
        folder / "a.zarr", shape=VOXELS.shape, dtype=VOXELS.dtype, zarr_format=version, **options
    )
    array[:] = VOXELS
    header = folder / "a.zarr" / (".zarray" if version == 2 else "zarr.json")
    return folder / "a.zarr", header, header.stat().st_size


def ome_zarr(folder, version=3):
    """Write the volume as an image with one time and channel and a second level; voxels of 4, 3 and 2 um."""
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=version)
    datasets = []
    for level, voxels in enumerate((VOXELS, VOXELS[:, ::2, ::2])):
        array = group.create_array(
            str(level), shape=(1, 1, *voxels.shape), dtype=voxels.dtype, chunks=(1, 1, 2, 2, 2)
        )
        array[0, 0] = voxels
        scale = [1, 1, 4e-3, 3e-3 * 2**level, 2e-3 * 2**level]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    axes = [{"name": name, "type": "time" if name == "t" else "channel"} for name in "tc"]
    axes += [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    image = [{"axes": axes, "datasets": datasets}]
    group.attrs.update({"multiscales": image} if version == 2 else {"ome": {"multiscales": image}})
    header = folder / "a.zarr" / (".zattrs" if version == 2 else "zarr.json")
    return folder / "a.zarr", header, header.stat().st_size


def ome_level(folder):
    path, _, _ = ome_zarr(folder)
    return path, path / "0" / "zarr.json", (path / "0" / "zarr.json").stat().st_size


def txm_file(folder):
    (folder / "a.txm").write_bytes(txm(VOXELS, 5))
    return whole(folder / "a.txm")


def write_dicom(path, pixels, **elements):
    """Write a DICOM file of pixels [H, W] or [frames, H, W]; elements: more of it, by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID = "1.2.3"
    header.Rows, header.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        header.NumberOfFrames = len(pixels)
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelSpacing = [0.003, 0.002]
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    if meta.TransferSyntaxUID == pydicom.uid.ExplicitVRBigEndian:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    header.PixelData = pixels.tobytes()
    if meta.TransferSyntaxUID.is_compressed:
        header.PixelData = pydicom.encaps.encapsulate([header.PixelData])
    header["PixelData"].VR = "OB" if bits == 8 else "OW"
    pydicom.dcmwrite(path, header, enforce_file_format=True)


def dicom(folder):
    write_dicom(folder / "a.dcm", VOXELS, SpacingBetweenSlices=0.004)
    return folder / "a.dcm", folder / "a.dcm", (folder / "a.dcm").stat().st_size - VOXELS.nbytes


def dicom_series(folder):
    """Write the slices under names whose order is not theirs."""
    for number, page in enumerate(VOXELS):
        position = [0, 0, 1 - 0.004 * number]
        write_dicom(folder / f"{number}.dcm", page, ImagePositionPatient=position, InstanceNumber=number)
    path = folder / "1.dcm"
    return folder, path, path.stat().st_size - VOXELS[0].nbytes


WRITERS = {
    "mat 5": mat_5,
    "compressed mat 5": compressed_mat_5,
    "mat 7.3": mat_73,
    "hdf5": hdf5,
    "gzip hdf5": gzip_hdf5,
    "netcdf 3": netcdf_3,
    "netcdf 4": netcdf_4,
    "zarr 2": zarr_2,
    "zarr 3": zarr_3,
    "ome-zarr": ome_zarr,
    "ome-zarr level": ome_level,
    "txm": txm_file,
    "dicom": dicom,
    "dicom series": dicom_series,
}
