import unicodedata

import numpy as np
import pytest
import zarr
from conftest import texture, write_folder
from PIL import Image
from source_folders import only_fault
from volume_samples import mhd, vol_info

from srgan_dist.data.manifest import ROCK_RULE
from srgan_dist.data.sample import key_problem
from srgan_dist.packing.scan import find_sources
from srgan_dist.packing.scan_folder import split_in_order


@pytest.mark.parametrize(
    "count, expected",
    [(1, "t"), (2, "tv"), (3, "tve"), (7, "tttttve"), (10, "ttttttttve"), (26, "t" * 20 + "vvveee")],
)
def test_split_is_8_to_1_to_1_with_one_of_each_from_three_on(count, expected):
    assert "".join({"train": "t", "valid": "v", "test": "e"}[s] for s in split_in_order(count)) == expected


def test_folder_of_hr_images_splits_by_source_image_in_natural_order(tmp_path):
    write_folder(tmp_path, {"sandstone": 12, "coal": 2, "one": 1})
    found = find_sources(tmp_path, "default", 4)
    split = {s.name: s.split for s in found.sources}
    assert (
        split["sandstone_slice_2"] == "train"
        and split["sandstone_slice_10"] == "valid"
        and split["sandstone_slice_11"] == "test"
    )
    assert (
        split["coal_slice_0"] == "train"
        and split["coal_slice_1"] == "valid"
        and split["one_slice_0"] == "train"
    )
    assert found.notes == [
        "coal: 2 source images only, so there is no test split of it",
        "one: 1 source image only, so there is no valid and no test split of it",
    ]


def test_images_without_sub_folders_take_the_folders_name_as_rock(tmp_path):
    write_folder(tmp_path, {"berea": 1})
    assert find_sources(tmp_path / "berea", "default", 4).sources[0].rock == "berea"


def test_other_files_are_named_and_hidden_ones_are_not(tmp_path):
    write_folder(tmp_path, {"coal": 3})
    (tmp_path / "coal" / "photo.jpg").write_bytes(b"")
    (tmp_path / "coal" / ".DS_Store").write_bytes(b"")
    notes = find_sources(tmp_path, "default", 4).notes
    assert notes == [
        f"{tmp_path}: 1 files are of no format that is read and are left out: 1 .jpg (photo.jpg):"
        " compression has changed their grey levels: take the originals"
    ]


def test_chunks_that_a_zarr_store_lacks_are_told(tmp_path):
    zarr.create_array(tmp_path / "coal" / "plug.zarr", data=np.full((8, 8, 8), 7, "u1"), chunks=(4, 4, 4))
    (tmp_path / "coal" / "plug.zarr" / "c" / "1" / "0" / "1").unlink()
    (note,) = find_sources(tmp_path, "default", 4, ndim=3).notes
    assert "plug.zarr: 1 of the 8 chunks of its array (12 %) are not stored" in note


def test_empty_and_missing_sources(tmp_path):
    assert "holds no image" in find_sources(tmp_path, "default", 4).faults[0]
    with pytest.raises(ValueError, match="SOURCE=.*nowhere does not exist"):
        find_sources(tmp_path / "nowhere", "default", 4)


def test_splits_that_the_user_made_are_kept(tmp_path):
    for split, rocks in {"train": {"coal": 2, "sandstone": 1}, "valid": {"coal": 1}}.items():
        write_folder(tmp_path / split, rocks)
    found = find_sources(tmp_path, "unknown", 4)
    assert [(s.name, s.rock, s.split, s.file) for s in found.sources] == [
        ("coal_train_slice_0", "coal", "train", "train/coal/slice_0.png"),
        ("coal_train_slice_1", "coal", "train", "train/coal/slice_1.png"),
        ("coal_valid_slice_0", "coal", "valid", "valid/coal/slice_0.png"),
        ("sandstone_train_slice_0", "sandstone", "train", "train/sandstone/slice_0.png"),
    ]
    assert found.notes == ["the splits are those of the folders train, valid"] and not found.faults


@pytest.mark.parametrize(
    "folders, problem",
    [
        ({"train": 3, "granite": 3}, "granite is none of train, valid, test"),
        ({"Train": 3, "test": 3}, "Train is none of train, valid, test; train is missing"),
        ({"train": 3, "val": 2, "test": 1}, "val is none of"),
        ({"train": 3, "VALIDATION": 2}, "VALIDATION is none of"),
        ({"training": 3, "testing": 2}, "testing is none of"),
        ({"dev": 3}, "train is missing"),
        ({"valid": 3, "test": 3}, "train is missing"),
        ({"train": 3, "test": 0}, "test holds no image"),
        ({"train": 3, "empty": 0}, "empty is none of"),
    ],
)
def test_folders_that_only_resemble_splits_are_a_fault(tmp_path, folders, problem):
    write_folder(tmp_path, folders)
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert f"{tmp_path}: has folders called like splits, but" in fault and problem in fault
    assert (
        "Allowed are a folder train and, beside it, valid and test" in fault
        and "Rename, move or remove" in fault
    )


def test_images_beside_given_splits_are_a_fault(tmp_path):
    write_folder(tmp_path, {"train": 2, "valid": 2})
    Image.fromarray(texture(9)).save(tmp_path / "stray.png")
    assert "but stray.png is beside them." in only_fault(find_sources(tmp_path, "unknown", 4))


def test_splits_below_a_rock_are_a_fault(tmp_path):
    write_folder(tmp_path / "coal", {"train": 3, "Test": 2})
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert fault.startswith(
        f"{tmp_path / 'coal' / 'Test'}, {tmp_path / 'coal' / 'train'}: splits are only understood above"
    )


def test_hidden_folders_and_other_files_beside_given_splits_do_no_harm(tmp_path):
    write_folder(tmp_path, {"train": 2, "test": 1, ".cache": 2})
    (tmp_path / "README.txt").write_text("mine")
    found = find_sources(tmp_path, "unknown", 4)
    assert not found.faults and sorted(s.split for s in found.sources) == ["test", "train", "train"]


def test_links_to_rocks_and_images_are_followed(tmp_path):
    write_folder(tmp_path / "disk", {"berea": 11})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "disk" / "berea")
    found = find_sources(tmp_path / "in", "unknown", 4)
    assert not found.faults
    assert [s.file for s in found.sources] == [f"linked/slice_{i}.png" for i in range(11)]


def test_a_link_to_a_folder_around_it_is_told_of_and_not_followed(tmp_path):
    write_folder(tmp_path, {"coal": 3})
    again = tmp_path / "coal" / "again"
    again.symlink_to(tmp_path)
    found = find_sources(tmp_path, "unknown", 4)
    assert len(found.sources) == 3 and not found.faults
    assert found.notes == [f"{again}: is a link to a folder above it, {tmp_path}, and is not followed"]


def test_one_folder_under_two_names_is_a_fault(tmp_path):
    write_folder(tmp_path, {"coal": 3})
    (tmp_path / "other").symlink_to(tmp_path / "coal")
    assert "other: is the same folder as" in only_fault(find_sources(tmp_path, "unknown", 4))


def test_broken_links_are_faults(tmp_path):
    write_folder(tmp_path, {"coal": 3})
    (tmp_path / "coal" / "slice_3.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".hidden").symlink_to(tmp_path / "nowhere")
    faults = find_sources(tmp_path, "unknown", 4).faults
    assert len(faults) == 2 and all(
        "is a broken link or no regular file; restore or remove it" in fault for fault in faults
    )


def test_names_with_digits_that_are_no_decimals_are_sorted(tmp_path):
    write_folder(tmp_path, {"coal": 1})
    (tmp_path / "coal" / "slice_0.png").rename(tmp_path / "coal" / "1\u00b23.png")
    (source,) = find_sources(tmp_path, "unknown", 4).sources
    assert source.name.startswith("coal_1_3_")


def test_volumes_with_their_data_beside_them_are_one_source_each(tmp_path):
    (tmp_path / "rock").mkdir()
    for writer in (mhd, vol_info):
        folder = tmp_path / writer.__name__
        folder.mkdir()
        writer(folder)
        for file in list(folder.iterdir()):
            file.rename(tmp_path / "rock" / file.name)
    found = find_sources(tmp_path, "default", 4)
    assert [(source.file, source.hr.shape) for source in found.sources] == [
        ("rock/a.mhd", (3, 4, 5)),
        ("rock/a.vol.info", (3, 4, 5)),
    ]
    assert found.faults == [] and not any("left out" in note for note in found.notes)


def test_rocks_whose_names_are_not_ascii_have_keys_of_their_own(tmp_path):
    write_folder(tmp_path, {"砂岩一": 3, "砂岩二": 3, "grès": 3})
    found = find_sources(tmp_path, "unknown", 4)
    assert not found.faults and {s.rock for s in found.sources} == {"砂岩一", "砂岩二", "grès"}
    assert len({s.name for s in found.sources}) == 9 and all(
        key_problem(s.name) is None for s in found.sources
    )
    decomposed = unicodedata.normalize("NFD", "grès")
    (tmp_path / "grès").rename(tmp_path / decomposed)
    again = find_sources(tmp_path, "unknown", 4)
    assert {s.name for s in again.sources} == {s.name for s in found.sources}


def test_files_that_are_not_read_are_counted_by_suffix_with_the_way_to_convert_them(tmp_path):
    (tmp_path / "rock").mkdir()
    for name in ("a.jpg", "b.jpg", "c.nii.gz", "d.czi", "notes.txt", "Makefile"):
        (tmp_path / "rock" / name).write_bytes(b"")
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert "holds no image" in fault and "6 files are of no format that is read" in fault
    assert "2 .jpg (a.jpg, b.jpg): compression has changed their grey levels: take the originals" in fault
    assert (
        "1 .nii.gz (c.nii.gz): save them as .nrrd" in fault and "1 .czi (d.czi): export them as TIFF" in fault
    )
    assert "1 .txt (notes.txt)" in fault and "1 without suffix (Makefile)" in fault


@pytest.mark.parametrize(
    "rock, allowed", [("cost $5_{ $", True), ("s\u00e4nd", True), ("a\nb", False), ("x" * 101, False)]
)
def test_rocks_are_called_by_names_that_sets_can_have(tmp_path, rock, allowed):
    write_folder(tmp_path, {rock: 3})
    faults = find_sources(tmp_path, "default", 4).faults
    assert faults == ([] if allowed else [f"{rock!r}: {ROCK_RULE}; rename its folder"])
