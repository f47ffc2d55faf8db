"""Images whose HR has one grey level, as beside a plug: no part of any mean, counted and named."""

import csv
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import texture, tiny_config
from PIL import Image
from test_report import network

import srgan_dist
from srgan_dist.data.degradation import upsample
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.robustness import format_robustness, measure_robustness
from srgan_dist.evaluation.scoring import check_scorable
from srgan_dist.evaluation.validation import Validator, spread_over_rocks
from srgan_dist.models.weights_file import save_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.errors import UserError


@pytest.fixture(scope="module")
def plugs(tmp_path_factory):
    """A set of eight slices of a round plug, zero outside, in tiles of which those at corners are zero."""
    root = tmp_path_factory.mktemp("plugs")
    (root / "hr" / "plug").mkdir(parents=True)
    y, x = np.mgrid[:288, :288]
    inside = np.hypot(y - 143.5, x - 143.5) < 62
    for number in range(8):
        slice_ = np.where(inside, texture(number, 288, 288).clip(1), 0).astype(np.uint8)
        Image.fromarray(slice_).save(root / "hr" / "plug" / f"slice_{number}.png")
    build(root / "hr", root / "shards", BuildOptions(tile=96, crop=64))
    return root / "shards"


def psnr_of_rock(split):
    """Return the mean PSNR of bicubic over the tiles of a split that hold rock, and the other tiles' keys."""
    reader, values, empty = Reader(split), [], []
    for i in range(len(split)):
        lr, hr = reader.image(i)
        if hr.min() == hr.max():
            empty.append(split.key(i))
        else:
            error = np.mean((np.clip(upsample(lr, 4) / 255, 0, 1) - hr / 255) ** 2)
            values.append(-10 * np.log10(error))
    return np.mean(values), empty


def test_an_evaluation_leaves_them_out_of_every_mean_and_names_them(plugs, tmp_path):
    save_generator(tmp_path / "run" / "weights" / "pretrain.safetensors", network(), {})
    table = srgan_dist.evaluate(tmp_path / "run", plugs, splits=["valid"], measures="off", samples=0)
    split = open_split(plugs, "valid")
    expected, empty = psnr_of_rock(split)
    assert 2 * len(empty) < len(split) and expected < 40  # of zero tiles it would be 100
    scores = json.loads((tmp_path / "run" / "eval" / "scores.json").read_text())["valid"]["plug"]["bicubic"]
    assert scores["psnr"] == pytest.approx(expected, abs=1e-3)
    assert scores["count"] == len(split) - len(empty)
    note = (
        f"valid: {len(empty)} of {len(split)} images have one grey level in HR and are left out of all scores"
    )
    assert note in table and empty[0] in table
    assert note in (tmp_path / "run" / "eval" / "report.html").read_text()
    rows = list(csv.DictReader((tmp_path / "run" / "eval" / "scores.csv").read_text().splitlines()))
    unscored = [row for row in rows if row["method"].startswith("not scored")]
    assert [row["key"] for row in unscored] == empty and not any(row["psnr"] for row in unscored)


def test_a_validation_chooses_weights_and_panels_without_them(plugs, tmp_path):
    config = tiny_config(plugs, tmp_path)
    splits = {"valid": open_split(plugs, "valid")}
    torch.manual_seed(0)
    generator = network()
    generator_config = config.model_copy(update={"generator": generator.config})
    for _ in range(2):  # the second time bicubic comes from the cache
        validator = Validator(generator_config, splits, tmp_path, None, Accelerator())
        _, scores = validator.validate(generator, ["valid"])["valid"]
        bicubic = scores["plug"]["bicubic"]["psnr"]
        assert bicubic == pytest.approx(psnr_of_rock(splits["valid"])[0], abs=1e-3)
    reader = Reader(splits["valid"])
    for i in spread_over_rocks(splits["valid"], 100):
        assert np.ptp(reader.image(i)[1]) > 0


def test_robustness_leaves_them_out_and_names_them(plugs, tmp_path):
    save_generator(tmp_path / "run" / "weights" / "pretrain.safetensors", network(), {})
    levels = {"blur": [0.0], "noise": [0.0]}
    result = measure_robustness([tmp_path / "run"], plugs, ["valid"], levels, Accelerator())
    split = open_split(plugs, "valid")
    expected, empty = psnr_of_rock(split)
    assert result["images"] == len(split) - len(empty)
    assert result["psnr"]["blur"]["bicubic"]["all"] == [pytest.approx(expected, abs=1e-3)]
    assert f"valid: {len(empty)} of {len(split)} images have one grey level" in format_robustness(result)


def test_a_training_names_them_at_its_start(plugs, tmp_path, capsys):
    config = tiny_config(plugs, tmp_path, adversarial=None)
    srgan_dist.train(config, **{"pretrain.steps": 1})
    assert "images have one grey level in HR and are left out of all scores" in capsys.readouterr().out


def test_a_split_without_anything_to_score_is_refused(tmp_path):
    (tmp_path / "hr" / "air").mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(tmp_path / "hr" / "air" / f"{number}.png")
    build(tmp_path / "hr", tmp_path / "shards", BuildOptions(tile=64, crop=32))
    with pytest.raises(UserError, match="all . images of the valid split of .* have one grey level in HR"):
        check_scorable(open_split(tmp_path / "shards", "valid"))
