"""--slabs: the splits of a volume as a user gives them, in HR voxels along one axis."""

from dataclasses import replace

import numpy as np
import pytest
from test_build import run
from test_build_volumes import volume
from test_volume_sources import OPTIONS, records, save, write_shifted

from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.utils.errors import UserError


def voxels_of(out, name, hr):
    """Return a mask of the voxels of `hr` that a split holds; all its samples are cut out of `hr`."""
    mask = np.zeros(hr.shape, bool)
    for record, _, block in records(out, name):
        part = tuple(slice(c, c + n) for c, n in zip(record["corner"], record["shape"], strict=True))
        assert np.array_equal(block, hr[part])
        mask[part] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "slabs, expected",
    [
        ("train=:50,valid=58:70,test=-12:", {"train": (0, 50), "valid": (58, 70), "test": (78, 90)}),
        ("test=0:12, train=30:-2", {"train": (30, 88), "test": (0, 12)}),
        ("train=9:61,test=71:81", {"train": (10, 60), "test": (72, 80)}),  # whole LR voxels
    ],
)
def test_splits_hold_the_voxels_that_were_given_and_no_others(tmp_path, axis, slabs, expected):
    shape = [24, 20, 16]
    shape[axis] = 90
    hr = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    save(tmp_path / "core.npy", hr)
    options = replace(OPTIONS, slabs=f"{'zyx'[axis]},{slabs}")
    result = build(tmp_path / "core.npy", tmp_path / "out", options)
    assert list(result.manifest.splits) == list(expected)
    assert result.manifest.options["slabs"] == options.slabs
    for name, (first, end) in expected.items():
        mask = voxels_of(tmp_path / "out", name, hr)
        assert np.array_equal(np.moveaxis(mask, axis, 0).all((1, 2)).nonzero()[0], np.arange(first, end))
        assert mask.sum() == (end - first) * hr.size // 90
        assert f"{name} {first} to {end - 1}" in result.notes[0]


@pytest.mark.parametrize("scale", [2, 3])
def test_both_sides_of_a_pair_are_cut_in_one_place(tmp_path, scale):
    lr = np.random.default_rng(0).integers(0, 255, (8, 9, 40), np.uint8)
    hr = lr.repeat(scale, 0).repeat(scale, 1).repeat(scale, 2)
    save(tmp_path / "hr.npy", hr)
    save(tmp_path / "lr.npy", lr)
    crop = 8 * scale
    options = BuildOptions(
        scale=scale, tile=crop, crop=crop, ndim=3, slabs=f"x,train=:{20 * scale},test=-{10 * scale}:"
    )
    build((tmp_path / "hr.npy", tmp_path / "lr.npy"), tmp_path / "out", options)
    for name, first, end in (("train", 0, 20), ("test", 30, 40)):
        mask = voxels_of(tmp_path / "out", name, hr)
        along = mask.any((0, 1)).nonzero()[0]
        assert np.array_equal(along, np.arange(first * scale, end * scale))
        for record, low, _ in records(tmp_path / "out", name):
            z, y, x = (corner // scale for corner in record["corner"])
            assert np.array_equal(low, lr[z : z + 8, y : y + 8, x : x + 8])


def test_slabs_of_registered_scans_are_in_voxels_of_the_file(tmp_path):
    """Registration cuts voxels 0 to 2 of z off, and begins LR voxels at odd ones."""
    hr, lr = write_shifted(tmp_path, (3.2, -4.3, 0.4), blocks=(20, 6, 6))
    options = BuildOptions(scale=2, tile=128, crop=16, ndim=3, align=8.0, slabs="z,train=:60,test=80:112")
    build((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out", options)
    for name, first, end in (("train", 3, 59), ("test", 81, 111)):
        ((record, low, _),) = records(tmp_path / "out", name)
        along = voxels_of(tmp_path / "out", name, hr).any((1, 2)).nonzero()[0]
        assert (along[0], along[-1] + 1) == (first, end)
        corner = [(c - shift) // 2 for c, shift in zip(record["corner"], (3, -4, 0), strict=True)]
        assert np.array_equal(low, lr[tuple(slice(c, c + n) for c, n in zip(corner, low.shape, strict=True))])


@pytest.mark.parametrize(
    "slabs, words",
    [
        ("z,train=:20,test=19:", "train ends at 20, but test begins at 19; leave a gap of a crop between"),
        ("z,test=:20,train=16:", "test ends at 20, but train begins at 16"),
        ("z,train=:20,test=-25:", "test is -1:24, which is no part of its 24 HR voxels along z"),
        ("z,train=:25", "train is 0:25, which is no part of its 24 HR voxels along z"),
        ("y,train=12:12", "train is 12:12, which is no part of its 24 HR voxels along y"),
        ("x,train=13:14", "train is 13:14, which holds no LR voxel that both sides show"),
        ("x,train=:12,test=20:", "24x24x4 voxels are less than crop=8"),
    ],
)
def test_slabs_that_no_volume_has_are_faults(tmp_path, slabs, words):
    save(tmp_path / "core.npy", volume(0))
    with pytest.raises(BuildError) as caught:
        build(tmp_path / "core.npy", tmp_path / "out", replace(OPTIONS, slabs=slabs))
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'core.npy'}: ") and words in fault


def test_volumes_that_have_a_split_are_not_cut(tmp_path):
    for i in range(3):
        save(tmp_path / "hr" / "coal" / f"{i}.npy", volume(i))
    with pytest.raises(BuildError, match="but its splits are whole volumes; leave out --slabs"):
        build(tmp_path / "hr", tmp_path / "out", replace(OPTIONS, slabs="z,train=:12"))


@pytest.mark.parametrize(
    "text",
    ["", "x", "x,", "w,train=:3", "x,test=:3", "x,train=3", "x,train=:3,train=5:", "x,dev=:3,train=5:"],
)
def test_a_misspelt_option_names_an_example(text):
    with pytest.raises(UserError, match="use e.g. x,train=:300,test=-90:"):
        replace(OPTIONS, slabs=text)


def test_slabs_go_with_volumes():
    with pytest.raises(UserError, match="give --dims 3 with it"):
        BuildOptions(slabs="x,train=:300")


def test_the_command_takes_slabs(tmp_path):
    save(tmp_path / "core.npy", volume(0, 40))
    options = ("--dims", "3", "--crop", "8", "--slabs", "x,train=:24,test=-8:")
    built = run("shards/build.py", tmp_path / "core.npy", tmp_path / "out", *options)
    assert built.returncode == 0, built.stderr
    assert "core.npy: its splits are slabs along x: train 0 to 23, test 32 to 39;" in built.stdout
