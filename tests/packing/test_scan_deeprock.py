import io

import numpy as np
import pytest
import tifffile
from conftest import stream, texture, write_folder
from library_samples import write_mat_73
from PIL import Image
from source_folders import only_fault, write_set

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.scan import find_sources
from srgan_dist.utils.errors import UserError


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
    Image.fromarray(texture(0, 16, 12) > 100).save(valid / "0004x4.png")
    (tmp_path / "coal2D" / "coal2D_test_LR_unknown_X4").rename(
        tmp_path / "coal2D" / "coal2D_test_LR_default_X2"
    )
    faults = "\n".join(find_sources(tmp_path, "unknown", 4).faults)
    assert f"{hr / '0001.png'}: has no LR partner; expected {lr / '0001x4.png'}" in faults
    assert f"{lr / '0009x4.png'}: has no HR partner" in faults
    assert f"{hr / '0002.png'}: is 64x48, which is not scale=4 times 16x13" in faults
    assert f"{valid / '0003x4.png'}: is not a PNG file" in faults
    assert f"{valid / '0004x4.png'}: has 1 bit per pixel" in faults
    assert (
        "coal2D_test_LR_unknown_X4: missing (kind=unknown, scale=4); the set has coal2D_test_LR_default_X2"
        in faults
    )
    assert len(faults.splitlines()) == 6


def test_lr_may_have_the_name_of_hr(tmp_path):
    write_set(tmp_path, splits=("train",))
    for path in list(tmp_path.rglob("*x4.png")):
        path.rename(path.with_name(path.name.replace("x4", "")))
    found = find_sources(tmp_path, "unknown", 4)
    assert [s.lr.path.name for s in found.sources] == ["0001.png", "0002.png"] and not found.faults


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
        f"{hr / '0002.tif'}: is the same image as {hr / '0002.png'}; remove one of them",
        f"{lr / '0001x4.tif'}: is the same image as {lr / '0001x4.png'}; remove one of them",
    ]


def test_images_that_no_set_claims_are_told_of(tmp_path):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path, {"own": 5, "own/deep/er": 1})
    found = find_sources(tmp_path, "unknown", 4)
    assert len(found.sources) == 2 and not found.faults
    assert found.notes == [
        f"6 images below {tmp_path} belong to no set and are left out: own/deep/er/slice_0.png,"
        " own/slice_0.png, own/slice_1.png and 3 more"
    ]


@pytest.mark.parametrize(
    "side", ["coal2D_train_HR", "coal2D_train_LR_unknown_X4", "coal2D_train_LR_default_X2"]
)
def test_images_in_folders_inside_a_side_are_a_fault(tmp_path, side):
    write_set(tmp_path, splits=("train",))
    write_folder(tmp_path / "coal2D" / side, {"more": 2})
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert f"{side}: 2 images are in folders inside it: more/slice_0.png, more/slice_1.png" in fault


def test_a_set_that_is_too_deep_is_refused_with_the_source_to_give(tmp_path):
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


def test_pairs_that_all_miss_the_scale_are_one_fault_per_folder(tmp_path):
    write_set(tmp_path)
    for path in (tmp_path / "coal2D").glob("*_LR_*/*.png"):
        Image.fromarray(texture(0, 32, 24)).save(path)
    faults = find_sources(tmp_path, "unknown", 4).faults
    assert len(faults) == 3
    assert all("is 64x48, which is not scale=4 times 32x24 of its partner in" in fault for fault in faults)


def test_ids_that_repeat_in_another_split_are_keys_with_the_split(tmp_path):
    write_set(tmp_path, splits=("train", "valid"))
    for path in (tmp_path / "coal2D").glob("coal2D_valid*/0003*"):
        path.rename(path.with_name(path.name.replace("0003", "0001")))
    build(tmp_path, tmp_path.with_name("out"), BuildOptions(crop=32))
    keys = {n: {open_split(tmp_path.with_name("out"), n).key(i) for i in (0, 1)} for n in ("train", "valid")}
    assert keys == {"train": {"coal_train_0001", "coal_0002"}, "valid": {"coal_valid_0001", "coal_0004"}}


@pytest.mark.parametrize("deep", ["HR", "LR"])
def test_sides_of_8_and_16_bits_are_stored_as_16_where_told_so(tmp_path, deep):
    write_set(tmp_path / "in", splits=("train",))
    for path in (tmp_path / "in").rglob(f"*_{deep}*/*.png"):
        grey = np.asarray(Image.open(path))[..., 0].astype(np.uint16) * 200
        Image.fromarray(grey).save(path)
    with pytest.raises(BuildError, match="both sides need one pixel type: use --dtype uint16"):
        build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32))
    build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32, dtype="uint16"))
    split = open_split(tmp_path / "out", "train")
    lr, hr = Reader(split).image(0)
    image = texture(int(split.key(0)[-4:]), 64, 48).astype(np.uint16)
    assert np.array_equal(hr, image * (200 if deep == "HR" else 257))
    assert np.array_equal(lr, image[::4, ::4] * (200 if deep == "LR" else 257))


@pytest.mark.parametrize("scale", [2, 4])
def test_volumes_of_matlab_keep_their_bytes_and_their_axes(tmp_path, scale):
    """As DeepRockSR-3D has them: version 7.3, with the axes (x, y, z), which are read as [z, y, x]."""
    x, y, z = np.meshgrid(np.arange(24), np.arange(20), np.arange(16), indexing="ij")
    of_place = (x + 100 * y + 2000 * z).astype(np.uint16)  # (x, y, z), as MATLAB sees it
    rock = tmp_path / "DeepRockSR-3D" / "coal3D"
    for side, name, step in (("HR", "", 1), ("LR_default_X2", "x2", 2), ("LR_default_X4", "x4", 4)):
        folder = rock / f"coal3D_train_{side}"
        folder.mkdir(parents=True)
        write_mat_73(folder / f"0801{name}.mat", of_place[::step, ::step, ::step].T)
    options = BuildOptions(scale=scale, kind="default", ndim=3, tile=24, crop=8)
    build(tmp_path / "DeepRockSR-3D", tmp_path / "out", options)
    split = open_split(tmp_path / "out", "train")
    (sample,) = stream(split.shards)
    assert split.key(0) == sample["__key__"] == "coal_0801" and split.rock(0) == "coal"
    for member, step in (("hr.npy", 1), ("lr.npy", scale)):
        found = np.load(io.BytesIO(sample[member]))
        assert found.shape == (16 // step, 20 // step, 24 // step) and found.dtype == np.uint16
        assert found[-1, 1, 2] == 2000 * (16 - step) + 100 * step + 2 * step
        assert np.array_equal(found, of_place.T[::step, ::step, ::step])


def test_sides_that_are_turned_otherwise_are_a_fault(tmp_path):
    write_set(tmp_path, splits=("train",))
    for path in list(tmp_path.rglob("*.png")):
        image = np.asarray(Image.open(path))[..., 0]
        turned = 4 if path.parent.name.endswith("HR") else 1
        tifffile.imwrite(path.with_suffix(".tif"), image, extratags=[(274, "H", 1, turned, True)])
        path.unlink()
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert "has Orientation 4, its partner in" in fault and "save both with Orientation 1" in fault
