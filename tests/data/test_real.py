"""The main job on real rocks, in a minute: does the network learn?"""

import json

import pytest
from accelerate import Accelerator
from conftest import REPOSITORY

from srgan_dist.config import load_config
from srgan_dist.evaluation.report import evaluate
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.training import train


@pytest.mark.rocks
def test_both_phases_do_their_work_on_real_slices(rocks, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    build(rocks / "slices", tmp_path / "shards", BuildOptions())
    config = load_config(
        REPOSITORY / "configs" / "demo.yaml",
        [
            "cpu_threads=1",
            f"data.path={tmp_path / 'shards'}",
            f"output={tmp_path}",
            "tracking.wandb=disabled",
            "pretrain.steps=350",
            "pretrain.max_seconds=null",
            "adversarial.steps=150",
            "adversarial.max_seconds=null",
        ],
    )
    train(config)
    evaluate(tmp_path / "demo", tmp_path / "shards", tmp_path / "eval", ["valid"], Accelerator())
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())["valid"]
    for rock, least_gain in (("sandstone", 0.9), ("carbonate", 0.4)):
        bicubic, pretrain, adversarial = (
            scores[rock][method] for method in ("bicubic", "pretrain", "adversarial")
        )
        assert pretrain["psnr"] - bicubic["psnr"] > least_gain
        assert pretrain["ssim"] > bicubic["ssim"]
        # the adversarial phase trades PSNR for texture
        assert adversarial["psnr"] < pretrain["psnr"]
        assert adversarial["spectrum_error"] < 0.75 * pretrain["spectrum_error"]
