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
    scores = scores_of(tmp_path, "shards", ["valid", "test"])
    for split in ("valid", "test"):
        for rock, methods in scores[split].items():
            least_gain = {"sandstone": 1.5, "carbonate": 0.7}[rock]
            assert methods["pretrain"]["psnr"] - methods["bicubic"]["psnr"] > least_gain
            assert methods["pretrain"]["ssim"] > methods["bicubic"]["ssim"]
            check_texture(methods, pattern=0.04, lattice=8)

    # Carbonates that the training has not seen, with LR of their own
    build(rocks / "deeprock_sr" / "DeepRockSR-2D", tmp_path / "unseen", BuildOptions(kind="unknown"))
    unseen = scores_of(tmp_path, "unseen", ["train", "valid"])
    for split in ("train", "valid"):
        methods = unseen[split]["carbonate"]
        assert methods["pretrain"]["psnr"] - methods["bicubic"]["psnr"] > 0.3
        check_texture(methods, pattern=0.05, lattice=10)


def scores_of(folder, shards, splits):
    """Score the run on splits of a set: {split: {rock: {method: means}}}."""
    out = folder / f"eval_{shards}"
    evaluate(folder / "demo", folder / shards, out, splits, Accelerator())
    return json.loads((out / "scores.json").read_text())


def check_texture(methods, pattern, lattice):
    """Phase 2 trades some PSNR for texture, and shows no pattern."""
    bicubic, pretrain, adversarial = (methods[name] for name in ("bicubic", "pretrain", "adversarial"))
    assert bicubic["psnr"] - 1.2 < adversarial["psnr"] < pretrain["psnr"]
    assert adversarial["spectrum_error"] < 0.6 * pretrain["spectrum_error"]
    assert adversarial["phase_dependence"] < pattern
    assert adversarial["lattice_excess"] - adversarial["lattice_excess_hr"] < lattice
