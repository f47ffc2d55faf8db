"""Synthetic rocks: reproducible, unlike noise, as hard for bicubic as real ones, on disk as DeepRock-SR."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk
from PIL import Image

from srgan_dist.cli.synthesize import is_finished
from srgan_dist.data.degradation import downsample, draw_kernel, upsample
from srgan_dist.datasets import synthetic as rocks
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import output_lock

SCRIPT = Path(__file__).parents[2] / "shards" / "synthesize.py"
SMALL = "--train 2 --valid 1 --test 1 --size 64 --seed 5 --rocks coal carbonate".split()


@pytest.fixture(scope="module")
def slices():
    return {rock: [rocks.synthesize(rock, 1, index, size=256) for index in range(4)] for rock in rocks.ROCKS}


def bicubic_psnr(image):
    error = np.clip(upsample(downsample(image, 4), 4), 0, 255) - image
    return 10 * np.log10(255**2 / np.mean(error**2))


def step_kurtosis(image):
    """Return the kurtosis of steps between neighbours: 3 in a Gaussian field, more where edges are sharp."""
    height, width = image.shape
    quieter = image.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    steps = np.diff(quieter, axis=1)
    steps -= steps.mean()
    return np.mean(steps**4) / np.mean(steps**2) ** 2


# --- Images ---


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_a_slice_depends_on_its_arguments_alone(rock):
    image = rocks.synthesize(rock, 3, 1, size=96)
    np.random.seed(0)
    other_rock = "coal" if rock == "sandstone" else "sandstone"
    others = [rocks.synthesize(*other, size=96) for other in [(rock, 4, 1), (rock, 3, 2), (other_rock, 3, 1)]]
    np.testing.assert_array_equal(image, rocks.synthesize(rock, 3, 1, size=96))
    assert all(np.mean(image != other) > 0.5 for other in others)


@pytest.mark.parametrize("rock", rocks.ROCKS)
@pytest.mark.parametrize("size", [64, 101, 256])
def test_dtype_and_shape(rock, size):
    image = rocks.synthesize(rock, 0, 7, size)
    assert image.dtype == np.uint8 and image.shape == (size, size)


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_grey_levels_use_the_range_without_clipping(slices, rock):
    pixels = np.stack(slices[rock])
    assert np.mean((pixels == 0) | (pixels == 255)) < 1e-3
    assert np.ptp(np.percentile(pixels, [0.1, 99.9])) > 100


@pytest.mark.parametrize("rock", rocks.ROCKS)
def test_edges_are_sharper_than_those_of_smooth_noise(slices, rock):
    rng = np.random.default_rng(0)
    for image in slices[rock]:
        amplitude = np.abs(np.fft.rfft2(image - image.mean()))
        phase = np.angle(np.fft.rfft2(rng.standard_normal(image.shape)))
        blobs = np.fft.irfft2(amplitude * np.exp(1j * phase), s=image.shape)  # the same spectrum
        assert step_kurtosis(image) > 4.5
        assert step_kurtosis(blobs) < 3.5


def test_sandstone_has_pores_and_grains(slices):
    for image in slices["sandstone"]:
        assert 0.08 < np.mean(image < 80) < 0.35
        counts = np.bincount(image.ravel(), minlength=256)
        pores, between, grains = (counts[grey : grey + 12].sum() for grey in (38, 76, 112))
        assert pores > 1.2 * between and grains > 3 * between


def test_carbonate_pores_are_sharp_and_fewer_than_its_matrix(slices):
    for image in slices["carbonate"]:
        assert 0.01 < np.mean(image < 80) < 0.35
        assert np.median(image) > 120


def test_coal_is_dark_with_open_cleats_and_bright_minerals(slices):
    pixels = np.stack(slices["coal"])
    assert 80 < np.median(pixels) < 110
    assert 0.001 < np.mean(pixels < 60) < 0.1
    assert 0.001 < np.mean(pixels > 140) < 0.1


def test_bicubic_finds_coal_easiest_and_carbonate_hardest(slices):
    psnr = {rock: np.mean([bicubic_psnr(image) for image in slices[rock]]) for rock in slices}
    assert 33 < psnr["coal"] < 40
    assert 26 < psnr["sandstone"] < 30
    assert 21 < psnr["carbonate"] < 25


def test_unusable_arguments_are_named():
    with pytest.raises(ValueError, match="rock='granite'.*sandstone, carbonate, coal"):
        rocks.synthesize("granite", 0, 1)
    with pytest.raises(ValueError, match="size=32.*64"):
        rocks.synthesize("coal", 0, 1, size=32)


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
    assert "8 slices" in done.stdout and "40 files" in done.stdout
    return out


def test_layout_and_names_are_those_of_deeprock_sr(written):
    files = set(contents(written))
    assert len(files) == 2 * 4 * 5 + 1
    coal = "DeepRockSR-2D/coal2D/coal2D"
    names = [
        "train_HR/0001",
        "train_HR/0002",
        "valid_HR/0003",
        "test_HR/0004",
        "train_LR_default_X2/0001x2",
        "valid_LR_unknown_X4/0003x4",
    ]
    assert {f"{coal}_{name}.png" for name in names} | {"synthesis.json"} <= files


def test_lr_is_the_degraded_hr(written):
    for rock, split, number in [("coal", "train", 2), ("carbonate", "test", 4)]:
        hr_file, lr_files = rocks.slice_files(rock, split, number)
        hr = np.asarray(Image.open(written / hr_file))
        assert hr.shape == (64, 64, 3) and np.ptp(hr, axis=2).max() == 0
        np.testing.assert_array_equal(hr[..., 0], rocks.synthesize(rock, 5, number, size=64))
        for (kind, scale), lr_file in lr_files.items():
            kernel = draw_kernel(kind, 5, f"{rock}_{number:04d}")
            lr = np.asarray(Image.open(written / lr_file))
            np.testing.assert_array_equal(lr[..., 1], downsample(hr[..., 0], scale, kernel))


def test_any_number_of_processes_gives_the_same_bytes(written, tmp_path):
    done = run(tmp_path, *SMALL, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(written)


def test_a_finished_set_is_left_alone(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    done = run(written, *SMALL)
    assert done.returncode == 0 and "nothing was written" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_a_set_made_with_other_options_is_refused(written):
    before = contents(written)
    done = run(written, *SMALL, "--train", "3")
    assert done.returncode == 1
    assert "train=2" in done.stderr and "train=3" in done.stderr and "another folder" in done.stderr
    assert contents(written) == before


def test_a_killed_run_is_continued_or_refused(written, tmp_path):
    record = json.loads((written / "synthesis.json").read_text())
    (tmp_path / ".synthesis.json.unfinished").write_text(json.dumps(record))
    refused = run(tmp_path, *SMALL, "--seed", "6")
    assert refused.returncode == 1 and "seed=5" in refused.stderr and "seed=6" in refused.stderr
    assert not (tmp_path / "DeepRockSR-2D").exists()
    assert run(tmp_path, *SMALL).returncode == 0
    assert contents(tmp_path) == contents(written)


def test_images_from_elsewhere_are_not_touched(tmp_path):
    image = tmp_path / "DeepRockSR-2D" / "coal2D" / "coal2D_train_HR" / "0001.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"a real scan")
    done = run(tmp_path, *SMALL)
    assert done.returncode == 1 and "from elsewhere" in done.stderr
    assert contents(tmp_path) == {str(image.relative_to(tmp_path)): b"a real scan"}


@pytest.mark.parametrize("record", ["[1]", "null", "{", "[" * 200_000], ids=["list", "null", "cut", "deep"])
def test_a_record_that_is_no_object_is_named(tmp_path, record):
    (tmp_path / "synthesis.json").write_text(record)
    with pytest.raises(UserError, match="synthesis.json cannot be read; delete"):
        is_finished(tmp_path, {"train": 2})


def test_an_out_that_is_a_file_or_holds_foreign_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="OUT=.*file is a file; name a new folder"):
        is_finished(tmp_path / "file", {})
    with pytest.raises(UserError, match="holds file from elsewhere; name a new folder"):
        is_finished(tmp_path, {})


def test_two_runs_into_one_folder_are_refused(tmp_path):
    (tmp_path / ".synthesis.json.unfinished").write_text(
        json.dumps({"train": 2, "valid": 1, "test": 1, "size": 64, "seed": 5, "rocks": ["carbonate", "coal"]})
    )
    with output_lock(tmp_path / ".synthesis.json.unfinished", tmp_path):
        done = run(tmp_path, *SMALL)
    assert done.returncode == 1 and f"another build is writing OUT={tmp_path}" in done.stderr
    assert not (tmp_path / "DeepRockSR-2D").exists()


@pytest.mark.parametrize(
    "options, text",
    [
        (["--size", "98"], "--size=98 is not a multiple"),
        (["--size", "32"], "--size=32 is too small"),
        (["--train", "0"], "--train=0 is too small"),
        (["--valid", "-1"], "--valid=-1 is too small"),
        (["--jobs", "0"], "--jobs=0 is too small"),
        (["--rocks", "granite"], "granite"),
    ],
)
def test_bad_options_end_in_one_line_before_anything_is_written(tmp_path, options, text):
    done = run(tmp_path / "out", *options)
    assert done.returncode == 2
    assert text in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_sigterm_to_all_processes_leaves_no_partial_file_and_the_same_command_goes_on(tmp_path):
    options = "--train 40 --valid 0 --test 0 --size 400 --rocks carbonate --jobs 2".split()
    command = [sys.executable, SCRIPT, tmp_path / "out", *options]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.rglob("*.png"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and service managers do
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (143, "ended by SIGTERM\n")
    left = [path.name for path in tmp_path.rglob(".*")]
    assert left == [".synthesis.json.unfinished"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    with full_disk(2000):
        done = subprocess.run(
            [sys.executable, SCRIPT, tmp_path / "out", *SMALL, "--jobs", "1"], capture_output=True, text=True
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: [Errno 27] File too large: ") and ".png'" in done.stderr
    assert f"'{tmp_path / 'out'}" in done.stderr and ".unfinished" not in done.stderr
