"""Synthetic volumes: reproducible, alike along all axes, with connected pores, on disk by split and rock."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.data.image_files import read_info
from srgan_dist.datasets.synthetic import volumes as rocks

SCRIPT = Path(__file__).parents[2] / "shards" / "synthesize.py"
SMALL = "--dims 3 --train 2 --valid 1 --test 0 --size 32 --seed 5 --rocks coal carbonate".split()


@pytest.fixture(scope="module")
def volumes():
    drawn = {
        rock: [rocks.synthesize_volume(rock, 1, index, size=64) for index in range(3)] for rock in rocks.ROCKS
    }
    return {rock: [volume.astype(float) for volume in three] for rock, three in drawn.items()}


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_a_volume_depends_on_its_arguments_alone(rock):
    volume = rocks.synthesize_volume(rock, 3, 1, size=33)
    assert volume.dtype == np.uint8 and volume.shape == (33, 33, 33)
    other_rock = "coal" if rock == "sandstone" else "sandstone"
    others = [
        rocks.synthesize_volume(*other, size=33) for other in [(rock, 4, 1), (rock, 3, 2), (other_rock, 3, 1)]
    ]
    np.testing.assert_array_equal(volume, rocks.synthesize_volume(rock, 3, 1, size=33))
    assert all(np.mean(volume != other) > 0.5 for other in others)


@pytest.mark.parametrize("rock", ["sandstone", "carbonate"])
def test_slices_of_all_three_directions_are_alike(volumes, rock):
    for axis in range(3):
        steps = [np.mean([np.abs(np.diff(v, axis=a)).mean() for v in volumes[rock]]) for a in range(3)]
        assert steps[axis] == pytest.approx(np.mean(steps), rel=0.1)


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_no_plane_of_voxels_stands_out(volumes, rock):
    """A cut through a grain, or a line of the detector, is a step that is larger than its neighbours."""
    for volume in volumes[rock]:
        for axis in range(3):
            steps = np.abs(np.diff(volume, axis=axis)).mean(axis=tuple({0, 1, 2} - {axis}))
            assert np.max(steps[1:-1] / (steps[:-2] + steps[2:])) < 0.6


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_grey_levels_use_the_range_without_clipping(volumes, rock):
    voxels = np.stack(volumes[rock])
    assert np.mean((voxels == 0) | (voxels == 255)) < 2e-3
    assert np.ptp(np.percentile(voxels, [0.1, 99.9])) > 80


def test_sandstone_pores_are_connected_and_its_edges_show_phase_contrast(volumes):
    for volume in volumes["sandstone"]:
        smoothed = ndimage.gaussian_filter(volume, 0.7)
        pores = smoothed < 90
        assert 0.1 < pores.mean() < 0.3
        labels, _ = ndimage.label(pores)
        assert np.bincount(labels.ravel())[1:].max() > 0.8 * pores.sum()
        from_pores = ndimage.distance_transform_edt(~pores)
        edge, inside = (np.median(volume[(from_pores > a) & (from_pores <= b)]) for a, b in [(2, 3), (6, 9)])
        assert edge > inside + 1  # the bright line along pores


def test_coal_is_dark_with_cleats_and_minerals_and_carbonate_bright_with_pores(volumes):
    coal, carbonate = np.stack(volumes["coal"]), np.stack(volumes["carbonate"])
    assert 80 < np.median(coal) < 110
    assert 0.0005 < np.mean(coal < 60) < 0.1 and 0.001 < np.mean(coal > 140) < 0.1
    assert np.median(carbonate) > 120 and 0.02 < np.mean(carbonate < 80) < 0.35


def test_interpolation_finds_coal_easiest(volumes):
    """The scanned sandstone of CSIRO (doi:10.5281/zenodo.5542624) has 24.7 dB."""
    psnr = {rock: np.mean([tricubic_psnr(volume) for volume in three]) for rock, three in volumes.items()}
    assert 29 < psnr["coal"] < 37
    assert 22 < psnr["sandstone"] < 27
    assert 21 < psnr["carbonate"] < 26


def tricubic_psnr(volume):
    restored = upsample(downsample(volume.astype(np.uint8), 4), 4, ndim=3)
    return 10 * np.log10(255**2 / np.mean((np.clip(restored, 0, 255) - volume) ** 2))


def test_unusable_arguments_are_named():
    with pytest.raises(ValueError, match="rock='granite'.*sandstone, carbonate, coal"):
        rocks.synthesize_volume("granite", 0, 1)
    with pytest.raises(ValueError, match="size=31.*32"):
        rocks.synthesize_volume("coal", 0, 1, size=31)


# --- Files ---


def run(out, *options):
    return subprocess.run([sys.executable, str(SCRIPT), str(out), *options], capture_output=True, text=True)


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("rocks") / "set"
    done = run(out, *SMALL, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "6 volumes of carbonate, coal (6 files)" in done.stdout
    return out


def test_layout_is_split_and_rock(written):
    names = ["train/{}/0001.tif", "train/{}/0002.tif", "valid/{}/0003.tif"]
    expected = {name.format(rock) for name in names for rock in ("carbonate", "coal")}
    assert set(contents(written)) == expected | {"synthesis.json"}


def test_files_hold_the_volumes_with_their_voxel_size(written):
    path = written / "valid" / "coal" / "0003.tif"
    np.testing.assert_array_equal(tifffile.imread(path), rocks.synthesize_volume("coal", 5, 3, size=32))
    info = read_info(path)
    assert info.shape == (32, 32, 32) and info.voxel_sizes_um == pytest.approx((3, 3, 3))


def test_any_number_of_processes_gives_the_same_bytes_after_a_kill_too(written, tmp_path):
    (tmp_path / ".synthesis.json.unfinished").write_bytes((written / "synthesis.json").read_bytes())
    done = run(tmp_path, *SMALL, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(written)


def test_a_finished_set_is_left_alone_and_slices_are_not_written_beside_volumes(written):
    before = contents(written)
    done = run(written, *SMALL)
    assert done.returncode == 0 and "nothing was written" in done.stdout
    refused = run(written, *SMALL[2:], "--size", "64")
    assert refused.returncode == 1 and "dims=3" in refused.stderr and "dims=2" in refused.stderr
    assert contents(written) == before


@pytest.mark.parametrize(
    "options, text",
    [
        (["--size", "28"], "--size=28 is too small; use at least 32"),
        (["--size", "1028"], "--size=1028 is too large for a volume; use at most 1024"),
        (["--size", "34"], "--size=34 is not a multiple"),
        (["--dims", "4"], "invalid choice: 4"),
    ],
)
def test_bad_options_end_in_one_line_before_anything_is_written(tmp_path, options, text):
    done = run(tmp_path / "out", *SMALL, *options)
    assert done.returncode == 2 and text in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
