"""Which blocks of which volumes make a set: slabs, gaps, empty blocks, pairs, and what their records say."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from test_build import digests, run
from test_build_volumes import volume

from srgan_dist.data.degradation import ScanLike, blur, scan_like
from srgan_dist.data.image_files import read_info
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split, read_manifest
from srgan_dist.packing import blocks, scan
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.slabs import slabs
from srgan_dist.utils.scales import SCALES

OPTIONS = BuildOptions(scale=2, tile=16, crop=8, ndim=3)


def records(out, name):
    reader = Reader(open_split(out, name))
    return [(reader.record(i), *reader.image(i)) for i in range(len(reader.split))]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crops", [5, 6.7, 10, 33])
def test_slabs_are_8_to_1_to_1_with_a_crop_between_them(scale, crops):
    crop = 8 * scale
    size = int(crops * crop) + 1
    (first, train), (second, valid), (third, test) = slabs(size, crop, scale)
    assert first == 0 and second - train == crop and third - second - valid == crop
    assert min(train, valid, test) >= crop and not any(n % scale for n in (train, valid, test, second, third))
    assert size - scale < third + test <= size
    assert crops < 10 or train / (train + valid + test) == pytest.approx(0.8, abs=0.15)
    assert slabs(5 * crop - 1, crop, scale) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_the_gap_between_slabs_is_in_no_split(tmp_path, axis, count):
    shape = [24, 24, 24]
    shape[axis] = 90
    arrays = [np.random.default_rng(i).integers(0, 255, shape, np.uint8) for i in range(count)]
    for i, array in enumerate(arrays):
        save(tmp_path / "hr" / "coal" / f"{i}.npy", array)
    notes = build(tmp_path / "hr", tmp_path / "out", OPTIONS).notes
    assert notes[0] == (
        f"coal/0.npy: its splits are slabs along {'zyx'[axis]}: train 0 to 57, valid 66 to 73, test 82 to 89;"
        " what is between is in none"
    )
    for name, first, end in (("train", 0, 58), ("valid", 66, 74), ("test", 82, 90)):
        found = [np.zeros(shape, bool) for _ in arrays]
        for record, _, hr in records(tmp_path / "out", name):
            part = tuple(slice(c, c + n) for c, n in zip(record["corner"], record["shape"], strict=True))
            number = int(record["source"].removeprefix("coal/").removesuffix(".npy"))
            assert np.array_equal(hr, arrays[number][part])
            found[number][part] = True
        for mask in found:  # every voxel of the slab, and none beside it
            along = mask.all(axis=tuple({0, 1, 2} - {axis}))
            assert along[first:end].all() and mask.sum() == (end - first) * 24 * 24


def test_a_rock_too_small_for_slabs_is_dealt_out_whole_and_said(tmp_path):
    save(tmp_path / "hr" / "coal" / "0.npy", volume(0))
    result = build(tmp_path / "hr", tmp_path / "out", OPTIONS)
    assert list(result.manifest.splits) == ["train"]
    assert result.notes == [
        "coal: 1 source image only, so there is no valid and no test split of it; slabs of one would need"
        " 5 crops, 40 voxels, along an axis"
    ]


def field_of_view(seed):
    """A round field of view: air with a little noise around it, and nothing at all in the last slices."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 255, (48, 64, 64), np.uint8)
    array[:, :32, :32] = 10 + rng.integers(0, 3, (48, 32, 32))
    array[40:] = 0
    return array


def test_empty_blocks_are_left_out_and_counted(tmp_path):
    for i in range(3):
        save(tmp_path / "hr" / "coal" / f"{i}.npy", field_of_view(i))
    options = BuildOptions(scale=2, tile=8, crop=8, ndim=3)
    result = build(tmp_path / "hr", tmp_path / "out", options)
    assert len(result.notes) == 3 and result.notes[0].startswith(
        "coal, train: 144 of 384 blocks are empty and left out: 64 of one grey level, 80 with a standard"
        " deviation below 3.6"
    )
    assert read_manifest(tmp_path / "out").totals == {"coal": 720}
    corners = {tuple(record["corner"]) for record, *_ in records(tmp_path / "out", "train")}
    assert all(z < 40 and (y >= 32 or x >= 32) for z, y, x in corners)
    kept = build(tmp_path / "hr", tmp_path / "all", BuildOptions(**vars(options) | {"min_contrast": 0}))
    assert kept.manifest.totals == {"coal": 1152}


def test_8_bit_volumes_have_the_contrast_of_the_16_bits_they_are_stored_as(tmp_path):
    for i in range(3):
        array = volume(i) if i == 0 else volume(i).astype(np.uint16) * 257
        save(tmp_path / "hr" / "coal" / f"{i}.npy", array)
    result = build(tmp_path / "hr", tmp_path / "out", replace(OPTIONS, dtype="uint16"))
    assert not [note for note in result.notes if "empty" in note]
    assert [len(records(tmp_path / "out", name)) for name in ("train", "valid", "test")] == [8, 8, 8]


def test_volumes_without_any_contrast_are_a_fault(tmp_path):
    save(tmp_path / "hr" / "coal" / "0.npy", np.full((24, 24, 24), 7, np.uint8))
    with pytest.raises(
        BuildError, match="8 of 8 blocks are empty and left out: 8 of one grey level"
    ) as caught:
        build(tmp_path / "hr", tmp_path / "out", OPTIONS)
    assert "no block is left; give other volumes, or min_contrast=0" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"lr_blur": 2.5, "lr_noise": 3.0, "lr_gain": 0.9}], ids=str)
def test_blocks_are_the_same_whatever_the_size_of_a_region(tmp_path, monkeypatch, options):
    for i in range(3):
        save(tmp_path / "hr" / "coal" / f"{i}.npy", volume(i, 40))
    options = BuildOptions(**vars(OPTIONS) | options)
    build(tmp_path / "hr", tmp_path / "large", options)
    monkeypatch.setattr(blocks, "REGION", 1)
    build(tmp_path / "hr", tmp_path / "small", options)
    assert digests(tmp_path / "large") == digests(tmp_path / "small")


def test_lr_like_a_scan_knows_the_surroundings_of_a_block(tmp_path):
    save(tmp_path / "hr" / "coal" / "0.npy", volume(0, 40))
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(scale=2, tile=16, crop=16, ndim=3, lr_blur=1.5))
    whole = volume(0, 40)
    found = records(tmp_path / "out", "train")
    assert len(found) == 27
    for record, lr, _ in found:
        assert record["degradation"] == {"blur_sigma": 1.5, "noise_sigma": 0.0, "gain": 1.0, "offset": 0.0}
        assert record["kernel"] is None
        z, y, x = (start // 2 for start in record["corner"])
        assert np.array_equal(lr, scan_like(whole, 2, ScanLike(1.5), 0, "")[z : z + 8, y : y + 8, x : x + 8])


def test_images_get_lr_like_a_scan_too(tmp_path):
    save(tmp_path / "hr" / "coal" / "0.npy", volume(0, 40)[0])
    build(tmp_path / "hr", tmp_path / "out", BuildOptions(scale=2, tile=16, crop=16, lr_blur=1.5))
    whole = scan_like(volume(0, 40)[0], 2, ScanLike(1.5), 0, "")
    for record, lr, _ in records(tmp_path / "out", "train"):
        y, x = record["top"] // 2, record["left"] // 2
        assert np.array_equal(lr, whole[y : y + 8, x : x + 8])


@pytest.mark.parametrize("scale", SCALES)
def test_pairs_of_two_folders_are_cut_alike(tmp_path, scale):
    lr = volume(0, 11)
    hr = lr.repeat(scale, 0).repeat(scale, 1).repeat(scale, 2)
    save(tmp_path / "hr" / "train" / "coal" / "plug.npy", hr)
    path = tmp_path / "lr" / "train" / "coal" / "plug.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, lr, photometric="minisblack")
    options = BuildOptions(scale=scale, tile=4 * scale, crop=2 * scale, ndim=3)
    build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)
    found = records(tmp_path / "out", "train")
    assert len(found) == 27
    for record, low, high in found:
        z, y, x = record["corner"]
        assert record["kernel"] is None and record["source"] == "train/coal/plug.npy"
        assert np.array_equal(high, hr[z:, y:, x:][: 4 * scale, : 4 * scale, : 4 * scale])
        assert np.array_equal(low.repeat(scale, 0).repeat(scale, 1).repeat(scale, 2), high)


def test_pairs_that_do_not_fit_are_faults(tmp_path):
    for name in ("a", "b", "wide"):
        save(tmp_path / "hr" / f"{name}.npy", volume(0))
    save(tmp_path / "lr" / "a.npy", volume(0, 12))
    save(tmp_path / "lr" / "wide.npy", volume(0, 13))
    save(tmp_path / "lr" / "other.npy", volume(0, 12))
    with pytest.raises(BuildError) as caught:
        build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", OPTIONS)
    words = "\n".join(caught.value.faults)
    assert "b.npy: has no LR partner; expected" in words and "other.npy: has no HR partner in" in words
    assert "wide.npy: is 24x24x24, which is not scale=2 times 13x13x13 of its partner" in words


def write_shifted(root, shift, ndim=3, scale=2, blocks=(20, 20, 20)):
    """Write a pair of scans whose LR is shifted and larger than it should be."""
    rng = np.random.default_rng(5)
    whole = np.kron(rng.integers(40, 200, blocks[:ndim]), np.ones((6,) * ndim)).astype(np.uint8)
    lr = np.floor(0.9 * blur(whole, scale, 0.9 * scale, shift) + 10.5).astype(np.uint8)
    hr = whole[tuple([slice(0, 112)] * ndim)]
    save(root / "hr" / "plug.npy", hr)
    save(root / "lr" / "plug.npy", lr)
    return hr, lr


@pytest.mark.parametrize(
    "scale, shift", [(2, (3.2, -4.3, 0.4)), (2, (-1.0, 2.0, 6.45)), (3, (3.2, -4.3, 0.4))]
)
def test_scans_are_registered_and_cut_to_their_overlap(tmp_path, scale, shift):
    hr, lr = write_shifted(tmp_path, shift, scale=scale)
    options = BuildOptions(scale=scale, tile=64 * scale, crop=16 * scale, ndim=3, align=8.0)
    result = build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)
    assert result.notes[0].startswith("plug.npy: registered in HR pixels and grey levels: shift [")
    ((record, low, high),) = records(tmp_path / "out", "train")
    found, corner = record["alignment"], np.array(record["corner"])
    assert np.abs(np.subtract(found["shift"], shift)).max() < 0.05 and found["correlation"] > 0.99
    assert np.abs(found["rest_shift"]).max() <= 0.5 and found["gain"] == pytest.approx(0.9, abs=0.02)
    assert np.array_equal(high, hr[tuple(slice(c, c + n) for c, n in zip(corner, record["shape"]))])
    first = (corner - np.round(shift).astype(int)) // scale
    assert np.array_equal(scale * first + np.round(shift), corner) and high.shape[0] == scale * low.shape[0]
    assert np.array_equal(low, lr[tuple(slice(c, c + n) for c, n in zip(first, low.shape))])
    assert np.all(np.array(high.shape) >= 112 - 8)


def test_images_are_registered_too(tmp_path):
    hr, _ = write_shifted(tmp_path, (3.2, -4.3), ndim=2)
    build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", BuildOptions(scale=2, crop=32, align=8.0))
    ((record, _, high),) = records(tmp_path / "out", "train")
    top, left = record["top"], record["left"]
    assert np.array_equal(high, hr[top : top + high.shape[0], left : left + high.shape[1]])
    assert np.abs(np.subtract(record["alignment"]["shift"], (3.2, -4.3))).max() < 0.05


def test_pairs_too_far_apart_are_refused_with_numbers(tmp_path):
    write_shifted(tmp_path, (3.2, -4.3, 0.4))
    save(tmp_path / "hr" / "other.npy", volume(1, 96))
    save(tmp_path / "lr" / "other.npy", volume(2, 48))
    options = BuildOptions(scale=2, crop=32, ndim=3, align=4.0)
    with pytest.raises(BuildError) as caught:
        build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)
    far, other = sorted(caught.value.faults, key=lambda fault: "other" in fault)
    assert "plug.npy: registered with" in far and "a shift of more than align=4 HR pixels (shift [3." in far
    assert "it has a correlation below 0.5" in other and "correct the pair, leave it out" in other


TURNS = {
    "flipped along z": lambda lr: lr[::-1],
    "flipped along y and x": lambda lr: lr[:, ::-1, ::-1],
    "axes xyz": lambda lr: lr.transpose(2, 1, 0),
}


@pytest.mark.parametrize("words", TURNS)
def test_a_pair_of_which_one_is_turned_is_not_registered(tmp_path, words):
    _, lr = write_shifted(tmp_path, (0.3, -0.4, 0.4))
    save(tmp_path / "lr" / "plug.npy", TURNS[words](lr[:56, :56, :56]))
    options = BuildOptions(scale=2, crop=32, ndim=3, align=8.0)
    expected = rf"fits better when it is turned \({words}: correlation 0\.\d\d for"
    with pytest.raises(BuildError, match=expected):
        build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)


def test_options_about_pairs_need_pairs_and_the_other_way_round(tmp_path):
    save(tmp_path / "hr" / "plug.npy", volume(0))
    save(tmp_path / "lr" / "plug.npy", volume(0, 12))
    with pytest.raises(BuildError, match="align registers pairs, but the source has no LR side"):
        build(tmp_path / "hr", tmp_path / "out", BuildOptions(**vars(OPTIONS) | {"align": 8.0}))
    with pytest.raises(BuildError, match="lr_blur makes an LR side, but the source has one"):
        options = BuildOptions(**vars(OPTIONS) | {"lr_blur": 2.0})
        build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)


@pytest.mark.parametrize(
    "sizes, expected",
    [
        (None, {"voxel_size_um": None}),
        ((2.0, 2.001, 2.0), {"voxel_size_um": 2.0}),
        ((4.0, 2.0, 2.0), {"voxel_size_um": None, "voxel_sizes_um": [4.0, 2.0, 2.0]}),
        ((None, 2.0, 2.0), {"voxel_size_um": None, "voxel_sizes_um": [None, 2.0, 2.0]}),
    ],
)
def test_records_have_one_voxel_size_where_voxels_are_cubes(tmp_path, monkeypatch, sizes, expected):
    def with_sizes(path, raw=None):
        return replace(read_info(path), voxel_sizes_um=sizes)

    monkeypatch.setattr(scan, "read_info", with_sizes)  # NPY files have none of their own
    save(tmp_path / "hr" / "plug.npy", volume(0))
    build(tmp_path / "hr", tmp_path / "out", OPTIONS)
    record, *_ = records(tmp_path / "out", "train")[0]
    assert {name: value for name, value in record.items() if name.startswith("voxel_size")} == expected


def test_defaults_go_by_dims_and_scale():
    assert (BuildOptions().tile, BuildOptions().crop) == (500, 192)
    assert (BuildOptions(ndim=3).tile, BuildOptions(ndim=3).crop) == (128, 64)
    assert (BuildOptions(ndim=3, scale=6).tile, BuildOptions(ndim=3, scale=6).crop) == (126, 60)
    assert not {"lr_blur", "align", "min_contrast"} & BuildOptions().recorded().keys()


def test_the_command_packs_volumes_and_pairs(tmp_path):
    write_shifted(tmp_path, (1.2, -0.3, 0.4))
    options = ("--dims", "3", "--scale", "2", "--crop", "16")
    built = run("shards/build.py", tmp_path / "hr", *options, tmp_path / "one", "--lr-blur", "1.8")
    assert built.returncode == 0 and "slabs along z" in built.stdout, built.stderr
    pair = ("--hr", tmp_path / "hr", "--lr", tmp_path / "lr")
    built = run("shards/build.py", *pair, "--align", tmp_path / "two", *options)
    assert built.returncode == 0 and "registered in HR pixels" in built.stdout, built.stderr
    for arguments, words in (
        ((tmp_path / "hr", tmp_path / "no", *pair), "give either SOURCE or both --hr and --lr"),
        ((tmp_path / "no", "--hr", tmp_path / "hr"), "give either SOURCE or both --hr and --lr"),
        ((tmp_path / "hr", tmp_path / "no", "--max-shift", "3"), "--max-shift 3 goes with --align"),
    ):
        wrong = run("shards/build.py", *arguments)
        assert wrong.returncode == 2 and words in wrong.stderr


PACK = """
import resource, sys
from srgan_dist.packing.build import BuildOptions, build
print(build(sys.argv[1], sys.argv[2], BuildOptions(ndim=3)).manifest.totals["hr"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB, pages of mapped files included
"""


@pytest.mark.slow
def test_a_volume_of_2000_cubed_is_packed_in_less_than_2_gib(tmp_path):
    """A sparse file of 8 GB with three cubes of noise, one in each slab: measured 833 MiB."""
    (tmp_path / "hr").mkdir()
    array = np.lib.format.open_memmap(tmp_path / "hr" / "plug.npy", "w+", np.uint8, (2000, 2000, 2000))
    for z in (0, 1600, 1850):
        array[z : z + 130, 256:384, 256:384] = np.random.default_rng(z).integers(0, 255, (130, 128, 128))
    del array
    command = [sys.executable, "-c", PACK, tmp_path / "hr", tmp_path / "out"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, peak = map(int, done.stdout.split())
    assert count >= 3 and peak < 2 * 2**20
