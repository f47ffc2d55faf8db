"""Pictures that do not belong into a set of scans: pairs that do not fit, narrow grey levels."""

import numpy as np
import pytest
import tifffile
from conftest import texture
from test_align import rock, scanned

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.match import fit, match

OPTIONS = BuildOptions(crop=64, tile=192)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-8, 5), (0, 0, 0), (1, -2, 0)])
def test_a_shift_of_whole_lr_pixels_is_found(shift):
    side, scale = (400, 4) if len(shift) == 2 else (96, 2)
    hr = rock(0, (side,) * len(shift))
    found = match(
        hr, scanned(hr, scale, np.multiply(scale, shift), scale, gain=0.8, offset=9, noise=2), scale
    )
    assert found.shift == shift and found.shifted > 0.85 and found.turned < 0.5
    assert any(shift) == (found.correlation < found.shifted - 0.1)


@pytest.mark.parametrize(
    "turn, words",
    [
        (lambda lr: lr[::-1], "flipped along y"),
        (lambda lr: lr[:, ::-1], "flipped along x"),
        (lambda lr: lr[::-1, ::-1], "flipped along y and x"),
        (lambda lr: lr.T, "axes xy"),
        (np.rot90, "axes xy, flipped along x"),
    ],
)
@pytest.mark.parametrize("side", [400, 372])  # with an odd number of LR pixels, too
def test_the_flip_or_rotation_that_brings_lr_back_is_found(turn, words, side):
    hr = rock(0, (side, side))
    found = match(hr, turn(scanned(hr, 4, (0, 0), 4)), 4)
    assert found.turn == words and found.turned > 0.85 and found.shifted < 0.3


def test_flips_of_volumes_and_foreign_lr():
    hr = rock(0, (96, 96, 80))
    assert match(hr, scanned(hr, 2, (0, 0, 0), 2)[:, :, ::-1], 2).turn == "flipped along x"
    other = rock(1, (96, 96, 80))
    found = match(hr, scanned(other, 2, (0, 0, 0), 2), 2)
    assert max(found.correlation, found.shifted, found.turned) < 0.4
    assert fit(match(other, scanned(hr, 2, (0, 0, 0), 2), 2), found) > 0.9 > 0.5 > fit(found, found)


def test_what_cannot_be_compared_has_no_match():
    assert match(np.zeros((64, 64), np.uint8), texture(0, 16, 16), 4) is None
    assert match(texture(0, 64, 64), np.zeros((16, 16), np.uint8), 4) is None
    assert match(texture(0, 28, 64), texture(0, 7, 16), 4) is None


def pairs(count=6):
    """HR and LR images of one rock, as two scanners give them."""
    hr = [rock(i, (192, 192)) for i in range(count)]
    return hr, [scanned(image, 4, (0, 0), 4, noise=1) for image in hr]


def built(tmp_path, hr, lr, **options):
    for side, images in (("hr", hr), ("lr", lr)):
        (tmp_path / side / "coal").mkdir(parents=True)
        for i, image in enumerate(images):
            np.save(tmp_path / side / "coal" / f"{i}.npy", image)
    options = BuildOptions(**vars(OPTIONS) | options)
    return build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)


def test_pairs_that_fit_are_packed_without_a_word(tmp_path):
    assert not any("LR" in note for note in built(tmp_path, *pairs()).notes)


def test_flipped_exchanged_and_inverted_pairs_are_faults_by_name(tmp_path):
    hr, lr = pairs(9)
    lr[1] = lr[1][::-1]
    lr[3], lr[4] = lr[4], lr[3]
    lr[6] = 255 - lr[6]
    lr[7] = scanned(rock(99, (192, 192)), 4, (0, 0), 4)
    with pytest.raises(BuildError) as caught:
        built(tmp_path, hr, lr)
    turned, inverted, other = caught.value.faults
    path = {i: str(tmp_path / "hr" / "coal" / f"{i}.npy") for i in range(9)}
    assert turned.startswith("coal: 1 pairs: LR fits HR better when it is turned")
    assert f"{path[1]} flipped along y: correlation 0." in turned
    assert f"{path[6]} correlation -0." in inverted and "dark where HR is bright" in inverted
    assert other.startswith("coal: 3 pairs: LR does not show what HR shows") and "--align" in other
    for one, owner in ((3, 4), (4, 3)):
        assert (
            f"its LR seems to be that of {path[owner]}"
            in other.partition(f"{path[one]} ")[2].partition(";")[0]
        )
    assert other.count("seems to be") == 2 and path[7] in other
    assert not (tmp_path / "out").exists()


def test_a_shift_is_a_note_with_its_pixels_and_align_mends_it(tmp_path):
    hr, lr = pairs(2)
    lr[1] = scanned(hr[1], 4, (4, -8), 4, noise=1)
    notes = built(tmp_path, hr, lr).notes
    (note,) = [note for note in notes if "after a shift" in note]
    assert f"{tmp_path / 'hr' / 'coal' / '1.npy'} (1, -2): correlation 0." in note and "--align" in note
    assert note.startswith("coal: 1 pairs")
    aligned = built(tmp_path / "aligned", hr, lr, align=16.0)
    assert not any("after a shift" in note for note in aligned.notes)


def test_lr_of_the_next_slice_is_a_note(tmp_path):
    volume = rock(0, (30, 160, 160))
    hr = [volume[3 * i] for i in range(9)]
    lr = [scanned(image, 4, (0, 0), 4) for image in hr]
    lr[5] = lr[6]
    (note,) = [note for note in built(tmp_path, hr, lr).notes if "much worse than elsewhere" in note]
    assert f"{tmp_path / 'hr' / 'coal' / '5.npy'} correlation" in note
    assert f"its LR seems to be that of {tmp_path / 'hr' / 'coal' / '6.npy'}" in note


@pytest.mark.parametrize("count", [2, 4])
def test_lr_of_the_next_slice_is_a_note_in_a_rock_of_few_pairs(tmp_path, count):
    volume = rock(0, (30, 160, 160))
    hr = [volume[3 * i] for i in range(count)]
    lr = [scanned(image, 4, (0, 0), 4, noise=1) for image in hr]
    assert not any("LR" in note for note in built(tmp_path / "right", hr, lr).notes)
    lr[0] = lr[1]
    (note,) = [note for note in built(tmp_path / "wrong", hr, lr).notes if "LR" in note]
    path = tmp_path / "wrong" / "hr" / "coal"
    assert note.startswith(f"coal: 1 pairs: LR fits HR of another pair better; look at them: {path}/0.npy")
    assert note.endswith(f"its LR seems to be that of {path / '1.npy'}")


def test_ten_pairs_are_named_and_the_others_counted(tmp_path):
    hr, lr = pairs(12)
    with pytest.raises(BuildError) as caught:
        built(tmp_path, hr, [image[::-1] for image in lr])
    (fault,) = caught.value.faults
    assert "coal: 12 pairs: LR fits HR better when it is turned" in fault
    assert fault.count("flipped along y") == 10 and fault.endswith(" and 2 more")


def test_pages_of_stacks_and_blocks_of_volumes_are_compared_each(tmp_path):
    hr, lr = pairs(8)
    lr[6] = lr[6][:, ::-1]
    with pytest.raises(BuildError, match=r"0.npy page 6 flipped along x"):
        built(tmp_path / "pages", [np.stack(hr)], [np.stack(lr)])
    hr = rock(0, (64, 64, 128))
    lr = scanned(hr, 2, (0, 0, 0), 2)
    lr[:, :, 32:] = lr[:, :, 32:][::-1]
    with pytest.raises(BuildError, match=r"0.npy block \(0, 0, 64\) flipped along z"):
        built(tmp_path / "blocks", [hr, hr[::-1].copy()], [lr, lr], ndim=3, scale=2, tile=64, crop=32)


def test_air_between_scans_of_rock_is_no_mismatch(tmp_path):
    hr, lr = pairs()
    rng = np.random.default_rng(0)
    hr[0] = rng.integers(0, 9, (192, 192), np.uint8)
    lr[0] = rng.integers(0, 9, (48, 48), np.uint8)
    assert not any("LR" in note for note in built(tmp_path, hr, lr).notes)


def write(folder, images):
    folder.mkdir(parents=True)
    for name, image in images.items():
        tifffile.imwrite(folder / f"{name}.tif", image)


def hot(image):
    image[5, 7] = 65535
    return image


@pytest.mark.parametrize(
    "change, low, high",
    [
        (lambda unit: (32768 + unit * 4095).astype(np.uint16), 32768, 32768 + 4095),
        (lambda unit: hot((unit * 4095).astype(np.uint16)), 0, 4095),
        (lambda unit: (100 + unit * 20).astype(np.uint8), 100, 120),
    ],
    ids=["offset", "hot pixel", "8 bit"],
)
def test_grey_levels_that_use_little_of_their_range_are_noted_with_a_window(tmp_path, change, low, high):
    write(tmp_path / "in" / "rock", {str(i): change(texture(i) / 255) for i in range(3)})
    options = BuildOptions(tile=80, crop=32)
    (note,) = [n for n in build(tmp_path / "in", tmp_path / "out", options).notes if "grey levels are" in n]
    window = note.partition("--window ")[2].split()[0]
    found = list(map(int, window.split(":")))
    assert low <= found[0] < found[1] <= high and found[1] - found[0] > 0.5 * (high - low)
    mapped = BuildOptions(**vars(options) | {"window": window, "dtype": "uint16"})
    assert not any("grey levels are" in n for n in build(tmp_path / "in", tmp_path / "new", mapped).notes)
    grey = Reader(open_split(tmp_path / "new", "train")).image(0)[1]
    assert grey.min() == 0 and grey.max() == 65535


def plug(image, outside=0):
    """The image in a disc, as round plugs are stored."""
    y, x = np.indices(image.shape) - 39.5
    return np.where(y**2 + x**2 < 35**2, image, np.array(outside, image.dtype))


def offset(i):
    return (32768 + texture(i) / 255 * 4095).astype(np.uint16)


def grey_level_notes(tmp_path, rocks):
    for name, images in rocks.items():
        write(tmp_path / "in" / name, {str(i): image for i, image in enumerate(images)})
    notes = build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32)).notes
    return [note for note in notes if "grey levels are" in note]


@pytest.mark.parametrize("outside", [0, 65535, 40000])
def test_a_mask_around_plugs_hides_no_narrow_range(tmp_path, outside):
    """Outside of the disc, 40 % of each image, all pixels are black, white or any other level; the end of the
    plug is hardly in the last image.
    """
    end = np.full((72, 80), outside, np.uint16)
    end[40, :30] = offset(3)[40, :30]
    (note,) = grey_level_notes(tmp_path, {"core": [*(plug(offset(i), outside) for i in range(3)), end]})
    low, high = map(int, note.partition("--window ")[2].split()[0].split(":"))
    assert note.startswith("core: ") and 32768 <= low < 33768 < 35863 < high <= 36863


def test_a_narrow_plug_of_8_bits_is_noted_and_one_of_all_levels_is_not(tmp_path):
    narrow = [plug((100 + texture(i) / 255 * 20).astype(np.uint8)) for i in range(3)]
    (note,) = grey_level_notes(tmp_path / "narrow", {"core": narrow})
    low, high = map(int, note.partition("--window ")[2].split(":"))
    assert 100 <= low < 106 and 114 < high <= 120
    assert not grey_level_notes(tmp_path / "wide", {"core": [plug(texture(i)) for i in range(3)]})


def test_a_rock_of_all_levels_hides_no_narrow_one(tmp_path):
    wide = [texture(i).astype(np.uint16) * 257 for i in range(3, 6)]
    (note,) = grey_level_notes(tmp_path, {"core": map(offset, range(3)), "wide": wide})
    assert note.startswith("core: ") and "pack this rock as one of its own, with e.g. --window 33" in note


def test_narrow_rocks_get_one_window_where_their_levels_overlap(tmp_path):
    rocks = {"a": [offset(i) for i in range(3)], "b": [offset(i) + np.uint16(2000) for i in range(3, 6)]}
    (note,) = grey_level_notes(tmp_path / "one", rocks)
    low, high = map(int, note.partition("--window ")[2].split()[0].split(":"))
    assert note.startswith("a, b: ") and low < 33768 and high > 37863
    rocks["b"] = [offset(i) - np.uint16(30000) for i in range(3, 6)]
    notes = grey_level_notes(tmp_path / "two", rocks)
    assert [note[:3] for note in notes] == ["a: ", "b: "] and all("as one of its own" in n for n in notes)
