"""A volume of 24^3 voxels from file to file: packed, trained on in both phases, super-resolved."""

import json

import numpy as np
import pytest
import torch
from conftest import tiny_config

from srgan_dist.data.degradation import upsample
from srgan_dist.evaluation.super_resolver import SuperResolver
from srgan_dist.models.weights_file import load_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.training import train


@pytest.fixture
def shards(tmp_path):
    """Three volumes of overlapping balls, one for each split, in blocks of 16 voxels."""
    (tmp_path / "hr" / "balls").mkdir(parents=True)
    grid = np.indices((24, 24, 24))
    for number in range(3):
        rng = np.random.default_rng(number)
        centres = rng.uniform(0, 24, (12, 3))
        distance = min((np.linalg.norm(grid - c[:, None, None, None], axis=0) for c in centres), key=np.mean)
        for centre in centres:
            distance = np.minimum(distance, np.linalg.norm(grid - centre[:, None, None, None], axis=0))
        grey = np.where(distance < 5, 190, 60) + rng.normal(0, 5, distance.shape)
        np.save(tmp_path / "hr" / "balls" / f"{number}.npy", np.float32(grey.clip(0, 255) / 100))
    build(
        tmp_path / "hr",
        tmp_path / "shards",
        BuildOptions(ndim=3, scale=2, tile=16, crop=8, samples_per_shard=8, window="0:2.55"),
    )
    return tmp_path / "shards"


def test_a_volume_is_packed_trained_on_and_super_resolved(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    losses = {
        "pixel": {"name": "l1"},
        "perceptual": {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1e-3},
    }
    config = tiny_config(
        shards,
        tmp_path,
        log_every=1,
        data={"path": str(shards), "lr_crop": 6, "batch_size": 4, "augment": "all"},
        generator={"ndim": 3, "scale": 2, "num_blocks": 1, "num_filters": 4, "tanh": False, "init_std": None},
        discriminator={"name": "patch", "num_filters": 4, "num_layers": 1, "init_std": None},
        pretrain={"steps": 2, "learning_rate": 1e-3, "losses": {"pixel": {"name": "l1"}}},
        adversarial={
            "steps": 2,
            "learning_rate": 1e-3,
            "losses": losses,
            "objective": {"name": "relativistic"},
        },
    )
    trained = train(config)
    assert list(trained.state.phase_ends) == ["pretrain", "adversarial"] and trained.state.global_step == 4
    records = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["health/skipped"] == 0 for record in records if "loss/generator" in record)
    assert all(np.isfinite(record["val/psnr"]) for record in records if "val/psnr" in record)

    # The exported generator on a whole volume, at once and in blocks
    resolver = SuperResolver(*load_generator(tmp_path / "tiny" / "weights" / "adversarial.safetensors"))
    assert resolver.header["window"] == "0.0:2.55"  # of the values behind the grey levels
    lr = np.rint(100 * np.load(tmp_path / "hr" / "balls" / "0.npy")[::2, ::2, ::2]).astype(np.uint8)
    sr = resolver(lr)
    assert sr.shape == (24, 24, 24) and sr.dtype == np.uint8
    assert np.abs(resolver(lr, tile=5).astype(int) - sr).max() <= 1
    with torch.no_grad():
        for parameter in resolver.generator.parameters():
            parameter.zero_()
    assert np.abs(resolver(lr).astype(int) - 127.5).max() <= 0.5  # a network of zeros paints the middle grey
    assert upsample(lr, 2, ndim=3).shape == sr.shape
