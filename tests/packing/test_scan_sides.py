"""Pairs in ordinary folders are packed as pairs, or refused, and never become two rocks."""

import shutil

import numpy as np
import pytest
import tifffile
from conftest import texture
from PIL import Image
from source_folders import only_fault

from srgan_dist.data.degradation import downsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.scan import find_sources

LAYOUTS = {  # HR folder, LR folder -> rock, split
    "splits above": {("train/HR", "train/LR"): ("in", "train"), ("valid/HR", "valid/LR"): ("in", "valid")},
    "splits below": {("HR/train", "LR/train"): ("in", "train"), ("HR/valid", "LR/valid"): ("in", "valid")},
    "right below": {("HR", "LR"): ("in", "train")},
    "any names": {("a", "b"): ("in", "train")},
    "rocks below": {
        ("fine/coal", "coarse/coal"): ("coal", "train"),
        ("fine/sand", "coarse/sand"): ("sand", "train"),
    },
    "rocks above": {("coal/x", "coal/y"): ("coal", "train"), ("sand/x", "sand/y"): ("sand", "train")},
    "both": {
        ("train/coal/HR", "train/coal/LR"): ("coal", "train"),
        ("valid/coal/HR", "valid/coal/LR"): ("coal", "valid"),
    },
}


def write_pairs(hr, lr, seed=0, scale=4, x=False, count=2):
    """Write pairs with the same names, or with x4 behind those of LR."""
    for folder in (hr, lr):
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = texture(seed + i, 96, 96)
        tifffile.imwrite(hr / f"{i}.tif", image)
        tifffile.imwrite(lr / f"{i}{f'x{scale}' * x}.tif", downsample(image, scale))


@pytest.mark.parametrize("x", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_of_hr_and_lr_are_pairs(tmp_path, layout, x):
    root = tmp_path / "in"
    expected = {}
    for number, ((hr, lr), (rock, split)) in enumerate(LAYOUTS[layout].items()):
        write_pairs(root / hr, root / lr, 10 * number, x=x)
        for i in range(2):  # without splits of the user the second of two images validates
            of = split if "train" in hr + lr or "valid" in hr + lr else ("train", "valid")[i]
            expected[f"{hr}/{i}.tif"] = f"{lr}/{i}{'x4' * x}.tif", rock, of
    found = find_sources(root, "unknown", 4)
    assert not found.faults
    assert {s.file: (str(s.lr.path.relative_to(root)), s.rock, s.split) for s in found.sources} == expected
    (note,) = [note for note in found.notes if "pairs of HR and LR" in note]
    hr, lr = next(iter(LAYOUTS[layout]))
    assert len({s.name for s in found.sources}) == len(expected) and note.startswith(hr.split("/")[0])


@pytest.mark.parametrize(
    "hr, lr",
    [
        ("HR/{}", "LR/{}_x4"),
        ("HR/{}_HR", "LR/{}_LR"),
        ("a/{}-hr", "b/{}"),
        ("coal/a/{} hr", "coal/b/{} lr"),
        ("HR/{}", "LR/X4/{}x4"),
        ("HR/{}", "LR_bicubic/X4/{}"),
        ("train/HR/{}", "train/LR/X4/{}x4"),
        ("HR/train/{}", "LR/X4/train/{}x4"),
    ],
)
@pytest.mark.parametrize("others", [(), (2, 8)])
def test_ends_of_names_and_folders_of_sizes_say_no_more_than_the_side(tmp_path, hr, lr, others):
    """Each HR picture is packed with its own LR, of those of several scales the one of this scale."""
    pictures = {}
    for i in range(2):
        image = texture(i, 96, 96)
        for scale in (1, 4, *(others if "X4" in lr else ())):
            path = tmp_path / "in" / (hr if scale == 1 else lr.replace("4", str(scale))).format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(f"{path}.tif", downsample(image, scale) if scale > 1 else image)
        pictures[image.tobytes()] = downsample(image, 4).tobytes()
    build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32))
    found = {}
    for split in ("train", "valid") if "train" not in hr else ("train",):
        reader = Reader(open_split(tmp_path / "out", split))
        found |= {hr.tobytes(): lr.tobytes() for lr, hr in map(reader.image, range(len(reader.split)))}
    assert found == pictures


def test_folders_of_sizes_in_a_rock_are_its_sides(tmp_path):
    write_pairs(tmp_path / "coal" / "X2", tmp_path / "coal" / "X4", scale=2)
    (tmp_path / "sand").mkdir()
    tifffile.imwrite(tmp_path / "sand" / "a.tif", texture(7))
    found = find_sources(tmp_path, "unknown", 2)
    assert "is beside the pairs of coal/X2 with coal/X4" in only_fault(found)


@pytest.mark.parametrize("scale", [2, 3, 4, 6, 8])
def test_lr_is_the_users_and_of_any_scale(tmp_path, scale):
    write_pairs(tmp_path / "in" / "zz", tmp_path / "in" / "aa", scale=scale)
    build(tmp_path / "in", tmp_path / "out", BuildOptions(scale=scale, crop=24, tile=96))
    lr, hr = Reader(open_split(tmp_path / "out", "train")).image(0)
    assert np.array_equal(hr, texture(0, 96, 96)) and np.array_equal(lr, downsample(hr, scale))


def test_pairs_of_another_scale_name_it(tmp_path):
    write_pairs(tmp_path / "HR", tmp_path / "LR", scale=2)
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert (
        "is 96x96, which is not scale=4 times 48x48 of its partner in" in fault and "use --scale 2" in fault
    )


def test_pairs_of_volumes(tmp_path):
    volume = np.stack([texture(i, 48, 48) for i in range(48)])
    for folder, array in (("fine", volume), ("coarse", downsample(volume, 2))):
        (tmp_path / folder / "core").mkdir(parents=True)
        for number, page in enumerate(array):
            tifffile.imwrite(tmp_path / folder / "core" / f"{number}.tif", page)
    (source,) = find_sources(tmp_path, "unknown", 2, 3).sources
    assert source.rock == "core" and source.hr.shape == (48, 48, 48) and source.lr.shape == (24, 24, 24)
    for folder in ("fine", "coarse"):  # the slices right in the two folders
        shutil.move(tmp_path / folder / "core", tmp_path / "moved")
        (tmp_path / folder).rmdir()
        (tmp_path / "moved").rename(tmp_path / folder)
    (source,) = find_sources(tmp_path, "unknown", 2, 3).sources
    assert source.rock == tmp_path.name and source.lr.path == tmp_path / "coarse"


def test_rocks_whose_sizes_are_in_one_ratio_by_chance_stay_rocks(tmp_path):
    for folder, size in (("berea", 96), ("coal", 48)):
        (tmp_path / folder).mkdir()
        for i in range(3):
            tifffile.imwrite(tmp_path / folder / f"{i}.tif", texture(i + size, size, size))
    found = find_sources(tmp_path, "unknown", 4)
    assert {s.rock for s in found.sources} == {"berea", "coal"} and not any(s.lr for s in found.sources)
    (note,) = found.notes
    assert "they show different things, so they are packed as rocks; if they are pairs: --hr" in note


@pytest.mark.parametrize("size", [96, 25, 40])
def test_folders_called_hr_and_lr_of_other_sizes_are_a_fault(tmp_path, size):
    """LR that was enlarged already, or cut otherwise than HR."""
    write_pairs(tmp_path / "HR", tmp_path / "LR")
    for i in range(2):
        tifffile.imwrite(tmp_path / "LR" / f"{i}.tif", texture(i, size, size))
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert f"is 96x96, which is not scale=4 times {size}x{size}" in fault and "--align" in fault


def test_a_missing_partner_is_a_fault(tmp_path):
    write_pairs(tmp_path / "HR", tmp_path / "LR", count=4)
    (tmp_path / "LR" / "3.tif").unlink()
    (tmp_path / "HR" / "2.tif").unlink()
    faults = find_sources(tmp_path, "unknown", 4).faults
    assert len(faults) == 2 and f"{tmp_path / 'HR' / '3.tif'}: has no LR partner" in faults[0]
    assert f"{tmp_path / 'LR' / '2.tif'}: has no HR partner" in faults[1]


def write_rocks(root, *files):
    for i, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / file, texture(i, 48, 48))


@pytest.mark.parametrize(
    "hr, lr",
    [("HR", "LR"), ("gt", "lq"), ("high-res", "low-res"), ("fine", "coarse"), ("HR_1", "LR_bicubic/X4")],
)
def test_folders_called_hr_and_lr_with_too_few_names_in_common_are_a_fault(tmp_path, hr, lr):
    names = [f"{hr}/{i}.tif" for i in range(5)] + [f"{lr}/{i}.tif" for i in range(3, 9)]
    write_rocks(tmp_path, *names, "other/a.tif")
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert fault.startswith(f"{tmp_path / hr} and {tmp_path / lr}: are called like the two sides of pairs")
    assert f"LR of {hr}/a.tif is {lr}/a.tif, ax4.tif or a_LR.tif" in fault
    assert f"give --hr {tmp_path / hr} --lr {tmp_path / lr} instead of SOURCE" in fault


@pytest.mark.parametrize(
    "one, other",
    [
        ("high_porosity", "low_porosity"),
        ("sandstone fine", "sandstone coarse"),
        ("HR", "berea"),
        ("charcoal", "Ehringsdorf"),
        ("berea_x2", "berea_x4"),
    ],
)
def test_ordinary_rocks_are_rocks(tmp_path, one, other):
    write_rocks(tmp_path, *(f"{rock}/{rock}_{i}.tif" for rock in (one, other) for i in range(3)))
    found = find_sources(tmp_path, "unknown", 4)
    assert {s.rock for s in found.sources} == {one, other} and not found.faults and not found.notes


def test_several_sizes_are_told_apart_by_scale_or_refused(tmp_path):
    write_pairs(tmp_path / "HR", tmp_path / "X4")
    write_pairs(tmp_path / "HR", tmp_path / "X2", scale=2)
    found = find_sources(tmp_path, "unknown", 4)
    assert {s.lr.path.parent.name for s in found.sources} == {"X4"} and not found.faults
    assert f"{tmp_path / 'X2'}: another side of the same images, left out with scale=4" in found.notes
    fault = find_sources(tmp_path, "unknown", 2).faults[0]  # X4 is a half of X2, too
    assert f"--hr {tmp_path / 'HR'} --lr {tmp_path / 'X2'} --scale 2" in fault


def test_images_beside_pairs_are_a_fault(tmp_path):
    write_pairs(tmp_path / "HR", tmp_path / "LR")
    (tmp_path / "other").mkdir()
    tifffile.imwrite(tmp_path / "other" / "a.tif", texture(7))
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert fault.startswith(f"{tmp_path / 'other' / 'a.tif'}: is beside the pairs of HR with LR; move")


def test_two_given_folders_may_have_the_scale_in_the_names_of_lr(tmp_path):
    write_pairs(tmp_path / "one", tmp_path / "two", x=True)
    found = find_sources((tmp_path / "one", tmp_path / "two"), "unknown", 4)
    assert [s.lr.path.name for s in found.sources] == ["0x4.tif", "1x4.tif"] and not found.faults


def test_a_build_of_faulty_pairs_writes_nothing(tmp_path):
    write_pairs(tmp_path / "in" / "HR", tmp_path / "in" / "LR", scale=3)
    with pytest.raises(BuildError, match="use --scale 3"):
        build(tmp_path / "in", tmp_path / "out", BuildOptions(crop=32))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("hr, lr", [("{}", "{}x4"), ("{}", "{}_X4"), ("{}_HR", "{}_LR")])
def test_lr_in_the_folder_of_hr_is_a_fault(tmp_path, hr, lr):
    (tmp_path / "rock").mkdir()
    for i in range(4):
        image = texture(i, 96, 96)
        tifffile.imwrite(tmp_path / "rock" / f"{hr.format(i)}.tif", image)
        tifffile.imwrite(tmp_path / "rock" / f"{lr.format(i)}.tif", downsample(image, 4))
    fault = only_fault(find_sources(tmp_path, "unknown", 4))
    assert fault.startswith(f"{tmp_path / 'rock' / lr.format(0)}.tif, ") and "and 1 more: are LR of" in fault
    assert "SOURCE/HR and SOURCE/LR" in fault


@pytest.mark.parametrize("hr_name, lr_name", [("berea_HR", "berea_LR"), ("core_hr", "core_lr")])
def test_folders_that_end_like_sides_are_shown_how_to_be_given(tmp_path, hr_name, lr_name):
    for name, size in ((hr_name, 48), (lr_name, 12)):
        (tmp_path / name).mkdir()
        Image.fromarray(texture(1, size, size)).save(tmp_path / name / "0.png")
    (fault,) = find_sources(tmp_path, "default", 4).faults
    assert f"--hr {tmp_path / hr_name} --lr {tmp_path / lr_name} instead of SOURCE" in fault
    scan = find_sources((tmp_path / hr_name, tmp_path / lr_name), "default", 4)
    assert not scan.faults and scan.sources[0].lr.shape == (1, 12, 12)


@pytest.mark.parametrize("deep", ["hr", "lr"])
def test_float_and_integer_sides_go_together_where_one_window_maps_both(tmp_path, deep):
    """One side is float32 of the same values, or of other ones."""
    hr = np.stack([texture(i, 64, 64) for i in range(2)]).astype(np.float32)
    sides = {"hr": hr, "lr": hr.reshape(2, 16, 4, 16, 4).mean((2, 4)).round()}
    for factor in (1, 1e-4):
        for side, values in sides.items():
            (tmp_path / side).mkdir(exist_ok=True)
            array = values * np.float32(factor) if side == deep else values.astype(np.uint16)
            for number in (0, 1):
                np.save(tmp_path / side / f"{number}.npy", array[number])
        arguments = (tmp_path / "hr", tmp_path / "lr"), tmp_path / f"set{factor}"
        window = f"0:{255 * (factor if deep == 'hr' else 1)}"
        options = BuildOptions(tile=64, crop=64, window=window)
        if factor == 1:
            build(*arguments, options)
            found = Reader(open_split(arguments[1], "train")).image(0)
            assert all(
                np.array_equal(image, sides[side][0]) for image, side in zip(found, ("lr", "hr"), strict=True)
            )
        else:
            with pytest.raises(
                BuildError, match="so no window maps both to the same grey levels; convert one"
            ):
                build(*arguments, options)
