"""However many slabs, regions and blocks a volume has: one fault, with its file, the rule and the way out."""

import numpy as np
import pytest
from test_build_volumes import volume

from srgan_dist.packing import blocks
from srgan_dist.packing.build import BuildError, BuildOptions, build

OPTIONS = {"scale": 4, "tile": 16, "crop": 8, "ndim": 3}


def faults_of(tmp_path, hr, lr=None, **options):
    """Build volumes {name: array}, or pairs of them; return the faults, without the path of the folder."""
    for side, arrays in (("hr", hr), ("lr", lr or {})):
        (tmp_path / side).mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / side / f"{name}.npy", array)
    source = (tmp_path / "hr", tmp_path / "lr") if lr else tmp_path / "hr"
    with pytest.raises(BuildError) as caught:
        build(source, tmp_path / "out", BuildOptions(**options))
    return [fault.replace(f"{tmp_path}/", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    "shape, way_out",
    [
        ((6, 90, 9), ", or choose --crop 4 or less"),
        ((90, 7, 90), ", or choose --crop 4 or less"),
        ((3, 90, 90), ""),  # thinner than an LR voxel
        ((1, 90, 90), ", or pack slices, with --dims 2"),
        ((90, 90), ", or pack slices, with --dims 2"),
        ((1, 1, 400), ", or pack slices, with --dims 2"),
    ],
)
def test_a_volume_that_is_too_thin(tmp_path, shape, way_out):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    size = "x".join(map(str, array.shape if array.ndim == 3 else (1, *array.shape)))
    assert faults_of(tmp_path, {"plug": array}, **OPTIONS) == [
        f"hr/plug.npy: {size} voxels are less than crop=8, the HR cube that training cuts (2 LR voxels at"
        f" scale=4); leave the volume out{way_out}"
    ]


@pytest.mark.parametrize(
    "lr_shape, way_out",
    [
        ((12, 12, 12), "use --scale 2"),
        ((96, 96, 96), "HR and LR seem to be exchanged"),
        ((6, 6, 7), "correct the pair, or let --align cut both to their overlap"),
    ],
)
def test_pairs_of_another_ratio(tmp_path, lr_shape, way_out):
    pair = {"plug": volume(0)}, {"plug": np.zeros(lr_shape, np.uint8)}
    (fault,) = faults_of(tmp_path, *pair, **OPTIONS)
    assert fault.startswith("hr/plug.npy: is 24x24x24, which is not scale=4 times ") and fault.endswith(
        way_out
    )


def test_an_overlap_that_is_too_thin_is_said_to_be_one(tmp_path):
    whole = np.kron(volume(0, 10), np.ones((4, 4, 4))).astype(np.uint8)
    pair = {"plug": whole}, {"plug": whole[6::2, ::2, ::2]}
    (fault,) = faults_of(tmp_path, *pair, scale=2, tile=40, crop=40, ndim=3, align=8.0)
    assert "voxels of overlap are less than crop=40" in fault and "--crop 34 or less" in fault


def test_names_that_make_no_keys(tmp_path):
    arrays = {"x" * 90: volume(0), "a b": volume(1), "a.b": volume(2)}
    long, same = faults_of(tmp_path, arrays, **OPTIONS)
    assert "must be 1 to 90 of the characters" in long
    assert same.startswith("hr/a.b.npy: has the same key 'hr_a_b_z0000_y0000_x0000' as hr/a b.npy")


def test_volumes_that_are_the_same_in_two_splits(tmp_path):
    arrays = {"0": volume(0), "1": volume(0), "2": volume(2)}
    assert faults_of(tmp_path, arrays, **OPTIONS) == [
        "hr/1.npy block (0, 0, 0): is in valid and is the same picture as hr/0.npy block (0, 0, 0) in train,"
        " as are 7 others of both files; scores would be too good. Remove one of them"
    ]


@pytest.mark.parametrize("window", ["0:255", "auto"])
def test_voxels_that_are_no_number(tmp_path, monkeypatch, window):
    monkeypatch.setattr(blocks, "REGION", 1)
    array = volume(0, 48).astype(np.float32)
    array[3::4, 3::4, 3::4] = np.nan
    np.save(tmp_path / "plug.npy", array)
    options = BuildOptions(**OPTIONS, window=window, min_contrast=0)
    with pytest.raises(ValueError) as caught:
        build(tmp_path / "plug.npy", tmp_path / "out", options)
    assert str(caught.value).count("holds NaN (not a number)") == 1
