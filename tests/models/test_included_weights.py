"""The weights that come with the project: found by name, small, and better than interpolation."""

import sys

import numpy as np
import pytest
from commands import run as run_command
from conftest import REPOSITORY, texture
from PIL import Image

import srgan_dist
from srgan_dist.config import load_config
from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.datasets.synthetic import synthesize
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import generator_file, save_generator
from srgan_dist.weights import ROCKS_X4

FILE = generator_file(ROCKS_X4)


def gain(lr, hr, scale=4):
    """Return by how many dB PSNR is above that of bicubic."""
    sr = srgan_dist.load_generator(ROCKS_X4, "cpu")(lr)
    errors = [np.square(np.clip(x, 0, 255) - hr.astype(float)).mean() for x in (upsample(lr, scale), sr)]
    return 10 * np.log10(errors[0] / errors[1])


def test_they_are_those_of_their_config_in_a_small_file_with_a_card():
    generator = srgan_dist.load_generator(ROCKS_X4, "cpu")
    assert generator.generator.config == load_config(REPOSITORY / "configs" / "rocks_x4.yaml").generator
    assert FILE.stat().st_size < 2e6
    card = (FILE.parent / "README.md").read_text()
    assert f"{sum(p.numel() for p in generator.generator.parameters()):,} parameters" in card
    assert "## Limits of use" in card and "MIT" in card and "/" + "root" not in card


@pytest.mark.parametrize("rock, least", [("sandstone", 0.9), ("carbonate", 0.5), ("coal", 1.0)])
def test_they_gain_on_made_rocks_that_they_have_not_seen(rock, least):
    hr = synthesize(rock, seed=77, index=0, size=256)
    assert gain(downsample(hr, 4, "bicubic"), hr) > least


@pytest.mark.rocks
def test_they_gain_on_real_rocks_that_they_have_not_seen(rocks):
    folder = rocks / "deeprock_sr" / "DeepRockSR-2D" / "carbonate2D"
    gains = []
    for split, name in (("train", "0001"), ("valid", "3201")):
        lr = Image.open(folder / f"carbonate2D_{split}_LR_unknown_X4" / f"{name}x4.png").convert("L")
        hr = Image.open(folder / f"carbonate2D_{split}_HR" / f"{name}.png").convert("L")
        gains.append(gain(np.asarray(lr), np.asarray(hr)))
    assert np.mean(gains) > 1.0
    scanned = np.load(rocks.parent / "volumes" / "sandstone_scanned_x3_hr.npy", mmap_mode="r")
    slices = [np.ascontiguousarray(scanned[z]) for z in (5, 25, 45, 65, 85)]
    slices = [hr[:132, :420] for hr in slices]
    assert np.mean([gain(downsample(hr, 4, "bicubic"), hr) for hr in slices]) > 2.8


def test_upscale_takes_them_where_no_weights_are_given(tmp_path):
    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png")
    upscale = sys.executable, "launch/super_resolve.py"
    for arguments in (
        ("in.png", "a.png"),
        ("in.png", "--tile", "16", "b.png"),
        (ROCKS_X4, "in.png", "--device", "cpu", "c.png"),
    ):
        paths = [tmp_path / name if name.endswith("png") else name for name in arguments]
        done = run_command(*upscale, *paths)
        assert done.returncode == 0, done.stderr
    images = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc"]
    assert images[0].shape == (80, 96)
    assert np.array_equal(images[0], images[2]) and np.abs(images[0].astype(int) - images[1]).max() <= 1
    done = run_command(*upscale, tmp_path / "in.png")
    assert done.returncode == 2 and "OUTPUT" in done.stderr


def test_a_file_or_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_generator(tmp_path / ROCKS_X4, SRResNet(SRResNetConfig(scale=2, num_blocks=1, num_filters=2)), {})
    assert srgan_dist.load_generator(ROCKS_X4, "cpu").scale == 2


def test_they_are_scored_on_a_set_of_ones_own(shards, tmp_path):
    evaluate = sys.executable, "launch/evaluate.py", ROCKS_X4, shards, "--measures", "off"
    done = run_command(*evaluate)
    assert done.returncode == 1 and "RUN=rocks_x4" in done.stderr and "--out" in done.stderr
    done = run_command(*evaluate, "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert f"  {ROCKS_X4} " in done.stdout and (tmp_path / "eval" / "report.html").exists()
