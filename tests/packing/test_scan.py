import numpy as np
import pytest
import tifffile
from conftest import texture, write_folder
from PIL import Image

from srgan_dist.packing.scan import check_samples, find_sources, list_samples, split_in_order, tile_starts
from srgan_dist.utils.errors import UserError


def write_set(root, name="coal2D", splits=("train", "valid", "test"), kind="unknown", scale=4, size=(64, 48)):
    """Write a DeepRock-SR set of two pairs per split, stored as RGB like the original."""
    number = 0
    for split in splits:
        hr_folder = root / name / f"{name}_{split}_HR"
        lr_folder = root / name / f"{name}_{split}_LR_{kind}_X{scale}"
        hr_folder.mkdir(parents=True)
        lr_folder.mkdir()
        for _ in range(2):
            number += 1
            hr = texture(number, *size)
            Image.fromarray(np.stack([hr] * 3, -1)).save(hr_folder / f"{number:04d}.png")
            lr = np.stack([hr[::scale, ::scale]] * 3, -1)
            Image.fromarray(lr).save(lr_folder / f"{number:04d}x{scale}.png")
    return root


def test_deeprock_set_is_found_at_any_level(tmp_path):
    write_set(tmp_path / "DeepRockSR-2D")
    for root in (tmp_path, tmp_path / "DeepRockSR-2D", tmp_path / "DeepRockSR-2D" / "coal2D"):
        found = find_sources(root, "unknown", 4)
        assert not found.faults
        assert [(s.name, s.rock, s.split) for s in found.sources] == [
            ("coal_0005", "coal", "test"),
            ("coal_0006", "coal", "test"),
            ("coal_0001", "coal", "train"),
            ("coal_0002", "coal", "train"),
            ("coal_0003", "coal", "valid"),
            ("coal_0004", "coal", "valid"),
        ]


def test_shuffled_set_is_left_out_beside_the_rocks_and_taken_alone(tmp_path):
    write_set(tmp_path)
    write_set(tmp_path, "shuffled2D")
    found = find_sources(tmp_path, "unknown", 4)
    assert {s.rock for s in found.sources} == {"coal"}
    assert "shuffled2D is left out" in found.notes[0]
    assert {s.rock for s in find_sources(tmp_path / "shuffled2D", "unknown", 4).sources} == {"shuffled"}


def test_every_fault_of_a_deeprock_set_is_told_at_once(tmp_path):
    write_set(tmp_path)
    hr = tmp_path / "coal2D" / "coal2D_train_HR"
    lr = tmp_path / "coal2D" / "coal2D_train_LR_unknown_X4"
    valid = tmp_path / "coal2D" / "coal2D_valid_LR_unknown_X4"
    (lr / "0001x4.png").rename(lr / "0009x4.png")
    Image.fromarray(texture(0, 16, 13)).save(lr / "0002x4.png")
    (valid / "0003x4.png").write_bytes(b"not a picture")
    Image.fromarray(texture(0, 16, 12)).convert("RGBA").save(valid / "0004x4.png")
    (tmp_path / "coal2D" / "coal2D_test_LR_unknown_X4").rename(
        tmp_path / "coal2D" / "coal2D_test_LR_default_X2"
    )
    faults = "\n".join(find_sources(tmp_path, "unknown", 4).faults)
    assert f"{hr / '0001.png'}: has no LR partner; expected {lr / '0001x4.png'}" in faults
    assert f"{lr / '0009x4.png'}: has no HR partner" in faults
    assert f"{hr / '0002.png'}: is 64x48, which is not scale=4 times 16x13" in faults
    assert f"{valid / '0003x4.png'}: is not a PNG file" in faults
    assert f"{valid / '0004x4.png'}: is a PNG of type RGB with alpha" in faults
    assert (
        "coal2D_test_LR_unknown_X4: missing (kind=unknown, scale=4); the set has coal2D_test_LR_default_X2"
        in faults
    )
    assert len(faults.splitlines()) == 6


def test_pairs_of_two_pixel_types_are_refused(tmp_path):
    write_set(tmp_path, splits=("train",))
    Image.fromarray(texture(0, 16, 12, np.uint16)).save(
        tmp_path / "coal2D" / "coal2D_train_LR_unknown_X4" / "0001x4.png"
    )
    assert "0001.png: is uint8" in find_sources(tmp_path, "unknown", 4).faults[0]


def test_upper_case_suffixes_pair_up(tmp_path):
    write_set(tmp_path, splits=("train",))
    for path in list(tmp_path.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    assert len(find_sources(tmp_path, "unknown", 4).sources) == 2


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
    assert notes == [f"{tmp_path}: 1 files are not PNG, TIFF or NPY and are left out: photo.jpg"]


def test_empty_and_missing_sources(tmp_path):
    assert "holds no image" in find_sources(tmp_path, "default", 4).faults[0]
    with pytest.raises(ValueError, match="is not a folder"):
        find_sources(tmp_path / "nowhere", "default", 4)


def test_slices_of_a_volume_stay_in_one_split(tmp_path):
    for i in range(3):
        tifffile.imwrite(
            tmp_path / f"plug{i}.tif",
            np.stack([texture(10 * i + j, 40, 40) for j in range(4)]),
            photometric="minisblack",
        )
    np.save(tmp_path / "plug3.npy", np.stack([texture(50 + j, 40, 40) for j in range(4)]))
    sources = find_sources(tmp_path, "default", 4).sources
    assert [s.hr.pages for s in sources] == [4] * 4
    samples = list_samples(sources, "default", 4, 40, 0)
    splits = {}
    for sample in samples:
        splits.setdefault(sample.source, set()).add(sources[sample.source].split)
    assert len(samples) == 16 and all(len(found) == 1 for found in splits.values())
    assert samples[5].key.endswith("_plug1_p0001")


@pytest.mark.parametrize(
    "size, tile, scale, expected",
    [
        (500, 500, 4, (500, [0])),
        (1000, 500, 4, (500, [0, 500])),
        (996, 500, 4, (500, [0, 496])),  # overlap, nothing left out
        (1024, 500, 4, (500, [0, 262, 524])),
        (300, 500, 4, (300, [0])),
        (403, 500, 4, (400, [1])),  # three pixels are no multiple of the scale
        (503, 500, 4, (500, [1])),
    ],
)
def test_tiles_cover_an_axis(size, tile, scale, expected):
    assert tile_starts(size, tile, scale) == expected


def test_tiles_of_an_image_cover_every_pixel(tmp_path):
    Image.fromarray(texture(0, 130, 210)).save(tmp_path / "a.png")
    samples = list_samples(find_sources(tmp_path, "unknown", 4).sources, "unknown", 4, 64, 0)
    covered = np.zeros((130, 210), bool)
    for s in samples:
        covered[s.top : s.top + s.height, s.left : s.left + s.width] = True
    assert covered.all() and {(s.height, s.width) for s in samples} == {(64, 64)}
    assert len({s.key for s in samples}) == len(samples) == 12
    assert len({s.kernel for s in samples}) > 1


def test_small_images_mixed_types_bad_and_colliding_keys_are_faults(tmp_path):
    (tmp_path / "r").mkdir()
    Image.fromarray(texture(0, 40, 40)).save(tmp_path / "r" / "small.png")
    Image.fromarray(texture(0, 64, 64, np.uint16)).save(tmp_path / "r" / "deep.png")
    Image.fromarray(texture(1, 64, 64)).save(tmp_path / "r" / "a b.png")
    Image.fromarray(texture(2, 64, 64)).save(tmp_path / "r" / "a.b.png")
    Image.fromarray(texture(3, 64, 64)).save(tmp_path / "r" / f"{'long' * 30}.png")
    sources = find_sources(tmp_path, "default", 4).sources
    samples = list_samples(sources, "default", 4, 64, 0)
    faults = "\n".join(check_samples(sources, samples, 4, 48, None))
    assert "is uint8 and" in faults and "--dtype uint16" in faults
    assert "small.png: 40x40 pixels are less than crop=48" in faults
    assert "must be 1 to 90 of the characters" in faults
    assert "a.b.png: has the same key 'r_a_b' as" in faults
    assert len(faults.splitlines()) == 4
    assert "uint16" not in "\n".join(check_samples(sources, samples, 4, 16, "uint16"))


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


def only_fault(found):
    """Return the only fault of a source."""
    (fault,) = found.faults
    return fault


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
    assert "but stray.png lies beside them." in only_fault(find_sources(tmp_path, "unknown", 4))


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


# Layout of DeepRock-SR


@pytest.mark.parametrize(
    "name",
    [
        "coal2D_validation_HR",
        "coal2D_Train_HR",
        "coal2D_hr",
        "berea_LR",
        "coal2D_train_LR_unknown_x4",
        "coal2D_val_LR_default_X2",
    ],
)
def test_folders_that_only_resemble_a_side_of_a_set_are_a_fault(tmp_path, name):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path / "coal2D", {name: 1})
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert (
        f"{tmp_path / 'coal2D' / name}: resembles a side of a DeepRock-SR set" in fault
        and "rename it" in fault
    )


def test_a_misspelt_set_is_not_packed_as_plain_images(tmp_path):
    write_set(tmp_path, splits=("train",))
    for path in list((tmp_path / "coal2D").iterdir()):
        path.rename(path.with_name(path.name.replace("train", "Train")))
    found = find_sources(tmp_path, "unknown", 4)
    assert not found.sources and len(found.faults) == 2


def test_an_lr_folder_without_its_hr_folder_is_a_fault(tmp_path):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path / "coal2D", {"coal2D_test_LR_unknown_X4": 1})
    assert "has no coal2D_test_HR beside it" in only_fault(find_sources(tmp_path, "unknown", 4))


def test_lr_folders_of_other_kinds_and_scales_are_fine(tmp_path):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path / "coal2D", {"coal2D_train_LR_default_X2": 2, "coal2D_train_LR_unknown_X2": 2})
    found = find_sources(tmp_path, "unknown", 4)
    assert len(found.sources) == 2 and not found.faults and not found.notes


def test_two_files_for_one_image_of_a_set_are_a_fault(tmp_path):
    write_set(tmp_path, splits=("train",))
    hr, lr = tmp_path / "coal2D" / "coal2D_train_HR", tmp_path / "coal2D" / "coal2D_train_LR_unknown_X4"
    tifffile.imwrite(lr / "0001x4.tif", texture(0, 16, 12))
    tifffile.imwrite(hr / "0002.tif", texture(0, 64, 48))
    faults = find_sources(tmp_path, "unknown", 4).faults
    assert faults == [
        f"{hr / '0002.tif'}: stands for the same image as {hr / '0002.png'}; remove one of them",
        f"{lr / '0001x4.tif'}: stands for the same image as {lr / '0001x4.png'}; remove one of them",
    ]


def test_images_that_no_set_claims_are_told_of(tmp_path):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path, {"own": 5, "own/deep/er": 1})
    found = find_sources(tmp_path, "unknown", 4)
    assert len(found.sources) == 2 and not found.faults
    assert found.notes == [
        f"6 images below {tmp_path} belong to no set and are left out:"
        " own/deep/er/slice_0.png, own/slice_0.png, own/slice_1.png and 3 more"
    ]


@pytest.mark.parametrize(
    "side", ["coal2D_train_HR", "coal2D_train_LR_unknown_X4", "coal2D_train_LR_default_X2"]
)
def test_images_in_folders_inside_a_side_are_a_fault(tmp_path, side):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path / "coal2D" / side, {"more": 2})
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert f"{side}: 2 images lie in folders inside it: more/slice_0.png, more/slice_1.png" in fault


def test_a_set_that_lies_too_deep_is_refused_with_the_source_to_give(tmp_path):
    write_set(tmp_path / "a" / "b" / "c")
    found = find_sources(tmp_path, "unknown", 4)
    assert not found.sources and f"give SOURCE={tmp_path / 'a' / 'b' / 'c' / 'coal2D'}" in only_fault(found)


@pytest.mark.parametrize("side", ["coal2D_train_HR", "coal2D_train_LR_unknown_X4"])
def test_one_side_of_a_set_is_no_source(tmp_path, side, monkeypatch):
    write_set(tmp_path)
    with pytest.raises(UserError, match=f"give the folder that holds both, {tmp_path / 'coal2D'}"):
        find_sources(tmp_path / "coal2D" / side, "unknown", 4)
    monkeypatch.chdir(tmp_path / "coal2D" / side)
    with pytest.raises(UserError, match="is called like one side"):
        find_sources(".", "unknown", 4)


# Links and names


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
    assert found.notes == [f"{again}: is a link to a folder that it lies in, {tmp_path}, and is not followed"]


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
        "is a broken link or no regular file; mend or remove it" in fault for fault in faults
    )


def test_names_with_digits_that_are_no_decimals_are_sorted(tmp_path):
    write_folder(tmp_path, {"coal": 1})
    (tmp_path / "coal" / "slice_0.png").rename(tmp_path / "coal" / "1\u00b23.png")
    assert [s.name for s in find_sources(tmp_path, "unknown", 4).sources] == ["coal_1_3"]


def test_rocks_whose_name_does_not_print_are_faults(tmp_path):
    write_folder(tmp_path, {"coal\udcff": 1, "two\nlines": 1})
    sources = find_sources(tmp_path, "default", 4).sources
    faults = check_samples(sources, list_samples(sources, "default", 4, 80, 0), 4, 48, None)
    assert faults == [
        r"rock 'coal\udcff': its name does not print; rename the folder",
        r"rock 'two\nlines': its name does not print; rename the folder",
    ]


# Grouped faults


def test_the_same_fault_of_many_files_is_one_line_with_a_count(tmp_path):
    write_folder(tmp_path, {"coal": 30}, size=(3, 3))
    sources = find_sources(tmp_path, "default", 4).sources
    (fault,) = check_samples(sources, list_samples(sources, "default", 4, 80, 0), 4, 48, None)
    first = ", ".join(str(tmp_path / "coal" / f"slice_{i}.png") for i in range(3))
    assert fault.startswith(f"{first} and 27 more: 3x3 pixels")
    assert "less than crop=48, the HR square that training cuts (12 LR pixels at scale=4)" in fault


def test_pairs_that_all_miss_the_scale_are_one_fault_per_folder(tmp_path):
    write_set(tmp_path)
    for path in (tmp_path / "coal2D").glob("*_LR_*/*.png"):
        Image.fromarray(texture(0, 32, 24)).save(path)
    faults = find_sources(tmp_path, "unknown", 4).faults
    assert len(faults) == 3
    assert all("is 64x48, which is not scale=4 times 32x24 of its partner in" in fault for fault in faults)
