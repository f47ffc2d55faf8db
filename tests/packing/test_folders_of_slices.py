"""Folders of slices in a build of volumes: where they may lie, what may lie beside them, and faults."""

import numpy as np
import pytest
import tifffile
import zarr
from library_samples import write_dicom
from PIL import Image
from test_volume_files import hr_blocks

from srgan_dist.packing.build import BuildError, BuildOptions, build

OPTIONS = BuildOptions(ndim=3, scale=2, tile=16, crop=8, kind="default", min_contrast=0)
VOXELS = np.random.default_rng(0).integers(0, 256, (44, 12, 10), np.uint8)


def write_slices(folder, suffix, voxels=VOXELS):
    """Write slices under names whose alphabetical order is not theirs; of DICOM nor is that of numbers."""
    folder.mkdir(parents=True)
    for number, page in enumerate(voxels):
        if suffix == ".dcm":
            place = {"ImagePositionPatient": [0, 0, number / 2], "InstanceNumber": number}
            write_dicom(folder / f"{7 * number % len(voxels)}.dcm", page, **place)
        else:
            Image.fromarray(page).save(folder / f"slice_{number + 1}{suffix}")
    return folder


def assert_is_packed(out, split="train", voxels=VOXELS):
    for corner, block in hr_blocks(out, split).items():
        part = tuple(slice(start, start + size) for start, size in zip(corner, block.shape, strict=True))
        assert np.array_equal(block, voxels[part])


def faults_of(source, tmp_path):
    with pytest.raises(BuildError) as caught:
        build(source, tmp_path / "out", OPTIONS)
    return caught.value.faults


@pytest.mark.parametrize("suffix", [".dcm", ".tif", ".png", ".bmp"])
@pytest.mark.parametrize(
    "below, rock, source", [("", "in", "in"), ("coal", "coal", "coal"), ("coal/core", "coal", "coal/core")]
)
def test_a_folder_of_slices_is_one_volume_at_any_depth(tmp_path, suffix, below, rock, source):
    write_slices(tmp_path / "in" / below, suffix)
    result = build(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert result.manifest.totals == {rock: 3}
    assert result.notes[0].startswith(f"{source}: its splits are slabs along z: train 0 to 11, valid 20")
    assert_is_packed(tmp_path / "out")


def test_folders_of_slices_may_be_called_like_splits(tmp_path):
    for split, voxels in (("train", VOXELS), ("test", VOXELS[::-1])):
        write_slices(tmp_path / "in" / split, ".png", voxels)
    build(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert_is_packed(tmp_path / "out")
    assert_is_packed(tmp_path / "out", "test", VOXELS[::-1])


def test_a_folder_of_slices_called_like_a_split_below_a_rock_is_a_fault(tmp_path):
    write_slices(tmp_path / "in" / "coal" / "test", ".png")
    (fault,) = faults_of(tmp_path / "in", tmp_path)
    assert "splits are only understood above the rocks" in fault


def test_what_lies_beside_slices_is_packed_or_named(tmp_path):
    folder = write_slices(tmp_path / "in" / "coal", ".tif")
    np.save(folder / "plug.npy", VOXELS[::-1])
    (folder / "readme.txt").write_text("scanned on Monday")
    (folder / "scan_rec.log").write_text("Pixel Size (um)=2.5\n")  # is read with the slices
    result = build(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert result.manifest.totals == {"coal": 6}
    assert "1 files are of no format that is read and are left out: 1 .txt (readme.txt)" in result.notes[0]


def test_names_with_dots_are_told_apart_and_find_their_partner(tmp_path):
    for number in (5, 7):
        voxels = np.roll(VOXELS, number)
        write_slices(tmp_path / "hr" / f"core_2.{number}um", ".png", voxels)
        (tmp_path / "lr").mkdir(exist_ok=True)
        np.save(tmp_path / "lr" / f"core_2.{number}um.npy", voxels[::2, ::2, ::2])
    result = build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", OPTIONS)
    assert result.manifest.totals == {"core_2.5um": 3, "core_2.7um": 3}


@pytest.mark.parametrize(
    "kinds", [("slices", "slices"), ("slices", "npy"), ("npy", "zarr"), ("zarr", "slices")]
)
def test_two_volumes_of_any_kind_are_a_pair(tmp_path, kinds):
    def write(kind, name, voxels):
        if kind == "slices":
            return write_slices(tmp_path / name, ".dcm", voxels)
        path = tmp_path / f"{name}.{kind}"
        if kind == "zarr":
            zarr.create_array(path, data=voxels, chunks=(8, 8, 8))
        else:
            np.save(path, voxels)
        return path

    sides = {"plug_HR": VOXELS, "plug_LR": VOXELS[::2, ::2, ::2]}  # as the sides of DeepRock-SR are called
    paths = tuple(write(kind, *side) for kind, side in zip(kinds, sides.items(), strict=True))
    result = build(paths, tmp_path / "out", OPTIONS)
    assert result.manifest.totals == {paths[0].stem: 3} and result.notes[0].startswith(paths[0].name)
    assert_is_packed(tmp_path / "out")


def test_one_volume_and_a_folder_of_volumes_are_no_pair(tmp_path):
    (tmp_path / "lr").mkdir()
    np.save(tmp_path / "hr.npy", VOXELS)
    with pytest.raises(ValueError, match=r"--hr=.*hr.npy is one volume, --lr=.*lr is a folder of others"):
        build((tmp_path / "hr.npy", tmp_path / "lr"), tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("suffix", [".dcm", ".tif", ".png", ".bmp"])
def test_a_slice_that_is_cut_short_is_named_once(tmp_path, suffix):
    folder = write_slices(tmp_path / "in" / "coal", suffix)
    path = folder / ("7.dcm" if suffix == ".dcm" else f"slice_7{suffix}")
    path.write_bytes(path.read_bytes()[:-60])
    (fault,) = faults_of(tmp_path / "in", tmp_path)
    assert fault.startswith(f"{path}: ") and "cut short" in fault
    path.write_bytes(b"<html>not found</html>")
    (fault,) = faults_of(tmp_path / "in", tmp_path)
    assert fault.startswith(f"{path}: ") and str(folder) + ": " not in fault


def test_mixed_folders_of_slices_are_faults(tmp_path):
    series = write_slices(tmp_path / "in" / "two_series", ".dcm")
    write_dicom(series / "other.dcm", VOXELS[0], SeriesInstanceUID="1.2.4")
    formats = write_slices(tmp_path / "in" / "two_formats", ".dcm")
    tifffile.imwrite(formats / "preview.tif", VOXELS[0])
    missing = write_slices(tmp_path / "in" / "missing", ".dcm")
    (missing / "7.dcm").unlink()
    faults = faults_of(tmp_path / "in", tmp_path)
    assert sorted(faults) == [
        f"{missing}: slices are missing or there twice: 0.dcm and 14.dcm are 1 apart, others 0.5; restore or"
        " remove slices",
        f"{formats}: holds slices of several formats, 0.dcm, preview.tif; leave those of one there",
        f"{series / 'other.dcm'}: has another SeriesInstanceUID than 0.dcm; give each series a folder of its"
        " own",
    ]
