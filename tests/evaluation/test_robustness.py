import json

import numpy as np
import pytest
from accelerate import Accelerator
from commands import launch
from scipy.ndimage import gaussian_filter
from test_report import network

from srgan_dist.data.degradation import upsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.evaluation import robustness
from srgan_dist.evaluation.robustness import degraded, format_robustness, measure_robustness
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError

LEVELS = {"blur": [0.0, 1.0], "noise": [0.0, 0.05, 0.2]}


@pytest.fixture
def runs(tmp_path):
    for number, name in enumerate(("one", "two")):
        save_generator(tmp_path / name / "weights" / "pretrain.safetensors", network(number), {})
    return [tmp_path / "one", tmp_path / "two"]


def test_scores_are_those_of_images_degraded_one_by_one(shards, runs):
    result = measure_robustness(runs, shards, ["valid", "test"], LEVELS, Accelerator())
    methods = ["bicubic", "one/pretrain", "two/pretrain"]
    assert [list(result["psnr"][kind]) for kind in LEVELS] == [methods] * 2
    splits = [open_split(shards, name) for name in ("valid", "test")]
    assert result["images"] == sum(map(len, splits)) and result["splits"] == ["valid", "test"]
    errors = []
    for split in splits:
        for i in range(len(split)):
            lr, hr = Reader(split).image(i)
            blurred = np.floor(gaussian_filter(lr.astype(float), 1.0, radius=4, mode="reflect") + 0.5)
            sr = np.clip(upsample(blurred, 4) / 255, 0, 1)
            errors.append(10 * np.log10(1 / np.mean((sr - hr / 255.0) ** 2)))
    assert result["psnr"]["blur"]["bicubic"]["all"][1] == pytest.approx(np.mean(errors), abs=2e-3)
    for rocks in (*result["psnr"]["blur"].values(), *result["psnr"]["noise"].values()):
        assert set(rocks) == {"all", "coal", "sandstone"}
    noise = result["psnr"]["noise"]["bicubic"]["all"]
    assert noise[0] > noise[1] > noise[2] and noise[0] == result["psnr"]["blur"]["bicubic"]["all"][0]
    table = format_robustness(result)
    gain = result["psnr"]["noise"]["two/pretrain"]["all"][2] - noise[2]
    assert f"({gain:+.2f})" in table and "PSNR in dB against blur of LR (sigma in LR pixels)" in table


def test_an_image_keeps_its_noise_and_an_image_without_any_is_unchanged():
    lr = np.full((30, 40), 1000, np.uint16)
    assert np.array_equal(degraded(lr, 3), lr)
    little, more = (degraded(lr, 3, noise=share).astype(float) - 1000 for share in (1e-3, 2e-3))
    assert np.abs(more - 2 * little).max() <= 1.5 and little.std() == pytest.approx(65.5, rel=0.1)
    assert not np.array_equal(degraded(lr, 3, noise=1e-3), degraded(lr, 4, noise=1e-3))


def test_the_command_writes_the_table_on_two_ranks_as_one_rank_finds_it(shards, runs, tmp_path):
    options = ["--blur", "0", "1", "--noise", "0.05", "--out", tmp_path / "out" / "table.json"]
    done = launch("launch/robustness.py", *runs, shards, *options, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("PSNR in dB against") == 2
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    levels = {"blur": [0.0, 1.0], "noise": [0.05]}
    expected = measure_robustness(runs, shards, ["valid", "test"], levels, Accelerator())
    for kind, methods in expected.pop("psnr").items():
        for method, rocks in methods.items():
            for rock, values in rocks.items():
                assert found["psnr"][kind][method][rock] == pytest.approx(values, abs=1e-5)
    assert {name: value for name, value in found.items() if name != "psnr"} == expected


@pytest.mark.parametrize(
    "levels, words",
    [
        ({"blur": [-1.0]}, "--blur -1 is not from 0 to 16, its sigma in LR pixels"),
        ({"noise": [float("nan")]}, "--noise nan is not from 0 to 1"),
        ({"noise": [5.0]}, "--noise 5 is not from 0 to 1, its standard deviation, share of the range"),
    ],
)
def test_levels_that_cannot_be_are_named(shards, runs, levels, words):
    with pytest.raises(UserError, match=words):
        measure_robustness(runs, shards, ["valid"], levels, Accelerator())


def test_two_runs_of_one_name_are_named(shards, runs, tmp_path):
    with pytest.raises(UserError, match="another run has a generator called one/pretrain too"):
        measure_robustness([runs[0], runs[0]], shards, ["valid"], LEVELS, Accelerator())


def test_an_image_for_which_the_memory_does_not_suffice_is_named(shards, runs, monkeypatch):
    def lacking(*_, **__):
        raise MemoryError

    monkeypatch.setattr(robustness, "degraded", lacking)
    with pytest.raises(UserError, match="an image of .* HR pixels in (coal|sandstone) need more memory"):
        measure_robustness(runs[:1], shards, ["valid"], LEVELS, Accelerator())
