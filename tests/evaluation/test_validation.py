"""Validation in a training: the scores it caches between runs, and the panels it draws."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_config
from PIL import Image

from srgan_dist.data.split import open_split
from srgan_dist.evaluation import scoring
from srgan_dist.evaluation.validation import Validator, texture_score
from srgan_dist.models import build_generator
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "srgan_dist" / "bicubic"


def gains(config):
    """Train and return the gain over bicubic of every validation."""
    train(config)
    records = map(json.loads, (Path(config.output) / config.name / "metrics.jsonl").read_text().splitlines())
    return [record["val/psnr_gain"] for record in records if "val/psnr_gain" in record]


def write(path, rows):
    path.write_text(f"{hashlib.sha256(rows.encode()).hexdigest()}\n{rows}")


def config_of(shards, output, name):
    return tiny_config(shards, output, name=name, adversarial=None, validate_every=3)


def validate(shards, output):
    """Return the logged metrics of a new Validator, as a run on the set has one, per split."""
    config = config_of(shards, output, "run")
    splits = {name: open_split(shards, name) for name in ("valid", "test")}
    validator = Validator(config, splits, output, None, Accelerator())
    torch.manual_seed(0)
    results = validator.validate(build_generator(config.generator), splits)
    return {name: metrics for name, (metrics, _) in results.items()}


def test_the_scores_of_bicubic_are_computed_once_for_all_runs_on_a_set(shards, tmp_path, cache):
    first = gains(config_of(shards, tmp_path, "first"))
    files = sorted(cache.iterdir())
    assert len(files) == 2  # of the valid and the test split
    for path in files:
        rows = json.loads(path.read_text().partition("\n")[2])
        write(path, json.dumps([row | {"psnr": row["psnr"] + 1} for row in rows]))
    second = gains(config_of(shards, tmp_path, "second"))  # reads the changed scores
    assert second == pytest.approx([gain - 1 for gain in first], abs=1e-6)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: json.dumps(json.loads(text)[::-1]),
        lambda text: text.replace('"psnr": ', '"psnr": 1e999, "x": ', 1),
        lambda text: text.replace('"ssim": ', '"ssim": null, "x": ', 1),
        lambda text: text.replace('"bicubic"', '"nearest"', 1),
    ],
    ids=["empty", "cut", "no rows", "no list", "deep", "another order", "infinite", "null", "another method"],
)
def test_cached_scores_of_bicubic_that_do_not_fit_the_split_are_computed_again(
    shards, tmp_path, cache, damage
):
    first = validate(shards, tmp_path)
    written = {path: path.read_text() for path in cache.iterdir()}
    for path, text in written.items():
        write(path, damage(text.partition("\n")[2]))
    assert validate(shards, tmp_path) == first
    assert {path: path.read_text() for path in cache.iterdir()} == written


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"psnr": ', '"psnr": 1', 1),
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "\xff" + text,
        lambda text: "\n" + text,
    ],
    ids=["a digit", "cut", "empty", "no text", "a line"],
)
def test_a_changed_file_of_scores_is_computed_again(shards, tmp_path, cache, damage):
    first = validate(shards, tmp_path)
    for path in cache.iterdir():
        path.write_text(damage(path.read_text()), encoding="latin-1")
    assert validate(shards, tmp_path) == first


@pytest.mark.parametrize("most, fails", [(3, False), (1, False), (0, True)])
def test_images_whose_scores_do_not_fit_into_memory_are_scored_in_parts(shards, monkeypatch, most, fails):
    split = open_split(shards, "valid")
    monkeypatch.setitem(scoring.BATCH_SIZES, ("cpu", 2), 16)
    ssim = scoring.METRICS["ssim"]
    device, methods = torch.device("cpu"), scoring.methods_of({}, split.scale, torch.device("cpu"))
    whole = scoring.score_split(split, methods, 0, 1, device)

    def with_little_memory(sr, hr):
        if len(sr) > most:
            raise torch.OutOfMemoryError("out of memory")
        return ssim(sr, hr)

    monkeypatch.setitem(scoring.METRICS, "ssim", with_little_memory)
    if fails:
        with pytest.raises(
            UserError, match="^the scores of an image of .* HR pixels in the valid split of .* smaller tiles"
        ):
            scoring.score_split(split, methods, 0, 1, device)
    else:
        assert scoring.score_split(split, methods, 0, 1, device) == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written_costs_nothing(shards, tmp_path, cache):
    cache.parent.parent.mkdir()
    cache.parent.parent.chmod(0o500)
    assert len(gains(config_of(shards, tmp_path, "first"))) == 2


def test_a_cache_that_cannot_be_made_costs_nothing(shards, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(gains(config_of(shards, tmp_path, "first"))) == 2


def test_panels_show_the_same_part_of_lr_sr_and_hr(shards, tmp_path):
    """Images of 72 x 80 are shown whole: in the panel of LR every pixel is 4 x 4, the mean of those of HR."""
    train(config_of(shards, tmp_path, "run"))
    picture = np.asarray(Image.open(tmp_path / "run" / "samples" / "step-00000003.png").convert("L"), float)[
        16:
    ]
    lr, hr = picture[:72, :80], picture[:72, 3 * 84 : 3 * 84 + 80]
    blocks = lr.reshape(18, 4, 20, 4)
    assert np.ptp(blocks, axis=(1, 3)).max() == 0
    assert (
        np.corrcoef(blocks.mean((1, 3)).ravel(), hr.reshape(18, 4, 20, 4).mean((1, 3)).ravel())[0, 1] > 0.98
    )


def test_the_texture_score_worked_by_hand():
    metrics = {
        "val/psnr_gain": 2.0,
        "val/spectrum_error": 0.4,
        "val/directional_spectrum_error": 0.6,
        "val/lattice_excess": 15.0,
        "val/lattice_excess_hr": 5.0,
        "val/phase_dependence": 0.06,
        "val/phase_dependence_hr": 0.01,
    }
    # Half of 0.5 nats, which are 0.5 * 4.342945 dB; a tenth of 10 dB; 10 times 0.05
    assert texture_score(metrics, "val") == pytest.approx(2 - 1.085736 - 1 - 0.5)
    # Less of a lattice than HR itself earns nothing
    metrics |= {"val/lattice_excess": 1.0, "val/phase_dependence": 0.0}
    assert texture_score(metrics, "val") == pytest.approx(2 - 1.085736)
