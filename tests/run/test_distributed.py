"""Real processes over gloo: two ranks against one."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import TORCHRUN, WORKER, launch, run_fresh, work, write_config
from conftest import NDIMS, tiny_config

from srgan_dist.models.srresnet import SRResNet
from srgan_dist.models.weights_file import load_generator, save_generator


def records(config):
    path = Path(config.output) / config.name / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def pixel_losses_of_phase_1(config):
    return [record["loss/pixel"] for record in records(config) if "loss/pixel" in record][:3]


@pytest.mark.parametrize("ndim", NDIMS)
def test_two_ranks_train_both_phases_and_end_with_equal_weights(shards_of, tmp_path, ndim):
    config = tiny_config(shards_of(ndim), tmp_path / "runs", ndim, checkpoint_every=3, log_every=3)
    first, second = work("train", config, tmp_path / "two", 2)
    assert first == second  # every weight and every batch-norm buffer
    run = tmp_path / "runs" / "tiny"
    assert (run / "weights" / "adversarial.safetensors").exists()
    assert [r["samples_seen"] for r in records(config) if "loss/generator" in r] == [12, 24, 36, 40]

    shutil.rmtree(run / "checkpoints" / "step-00000010")  # in phase 2: as if it had been killed there
    (run / "weights" / "adversarial.safetensors").unlink()
    assert work("train", config, tmp_path / "resumed", 2) == [first, first]


def short_phase_2(shards, tmp_path):
    phase = {"steps": 2, "lr_schedule": {"name": "constant"}, "losses": {"pixel": {"name": "l1"}}}
    return write_config(tmp_path, tiny_config(shards, tmp_path / "runs", pretrain=None, adversarial=phase))


@pytest.mark.parametrize("attempt", range(3))
def test_two_ranks_exit_cleanly(shards, tmp_path, attempt):
    done = launch("launch/train.py", short_phase_2(shards, tmp_path), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.nightly
@pytest.mark.parametrize("attempt", range(50))
def test_two_ranks_always_exit_cleanly(shards, tmp_path, attempt):
    config = short_phase_2(shards, tmp_path)
    done = run_fresh(*TORCHRUN, "--standalone", "--nproc_per_node=2", "launch/train.py", config)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("sync_batchnorm", [False, True])
def test_two_ranks_train_in_micro_batches(shards, tmp_path, sync_batchnorm):
    config = tiny_config(
        shards,
        tmp_path / "runs",
        gradient_accumulation_steps=2,
        log_every=2,
        discriminator={"num_filters": 4, "num_dense": 16, "init_std": None, "sync_batchnorm": sync_batchnorm},
    )
    first, second = work("train", config, tmp_path / "two", 2)
    assert first == second
    single = config.model_copy(update={"name": "one", "gradient_accumulation_steps": 1})
    work("train", single, tmp_path / "one", 1)
    # The same crops in the same order
    assert pixel_losses_of_phase_1(config) == pytest.approx(pixel_losses_of_phase_1(single), abs=1e-5)


def test_ranks_that_find_different_checkpoints_are_refused(shards, tmp_path):
    config = write_config(tmp_path, tiny_config(shards, tmp_path / "runs", adversarial=None))
    done = launch("launch/train.py", config, f"--output={tmp_path / 'runs' / 'rank0'}", ranks=1)
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(WORKER, "separate", config, tmp_path, ranks=2)
    assert done.returncode != 0
    assert "the ranks find different checkpoints there (rank 0: step-00000006, rank 1: none)" in done.stderr
    assert not (tmp_path / "runs" / "rank1").exists()


def test_batch_norm_buffers_and_weights_become_those_of_rank_0_when_they_are_shared(shards, tmp_path):
    first, second = work("buffers", tiny_config(shards, tmp_path), tmp_path / "out", 2)
    assert first["own"] != second["own"] and first["shared"] == second["shared"] == first["own"]
    assert first["weights"] == second["weights"] and first["weights"][1] == first["own"]


def test_two_ranks_learn_as_one_does_in_phase_1(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "runs")
    configs = [config.model_copy(update={"name": f"ranks{ranks}"}) for ranks in (1, 2)]
    for ranks, each in enumerate(configs, 1):
        work("train", each, tmp_path / f"out{ranks}", ranks)
    one, two = (
        load_generator(tmp_path / "runs" / each.name / "weights" / "pretrain.safetensors")[0]
        for each in configs
    )
    start = SRResNet(config.generator)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=0, atol=2e-5)  # Adam's steps are 1e-3
        assert not torch.equal(value, start.state_dict()[name])
    losses = [pixel_losses_of_phase_1(each) for each in configs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_two_ranks_score_as_one(shards, tmp_path):
    torch.manual_seed(0)
    save_generator(
        tmp_path / "run" / "weights" / "pretrain.safetensors",
        SRResNet(tiny_config(shards, tmp_path).generator),
        {},
    )
    for ranks in (1, 2):
        done = launch(
            "launch/evaluate.py", tmp_path / "run", shards, "--out", tmp_path / f"eval{ranks}", ranks=ranks
        )
        assert done.returncode == 0, done.stderr[-3000:]
    tables = []
    for ranks in (1, 2):
        with open(tmp_path / f"eval{ranks}" / "scores.csv") as file:
            tables.append(list(csv.DictReader(file)))
    for one, two in zip(*tables, strict=True):
        assert [one[name] for name in ("split", "key", "method")] == [
            two[name] for name in ("split", "key", "method")
        ]
        for name in ("psnr", "ssim", "spectrum_error", "mse"):
            assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-4)
    assert "valid  coal" in done.stdout and done.stdout.count("report.html") == 1


@pytest.mark.parametrize(
    "options, environment, words",
    [
        (
            [],
            {"ACCELERATE_USE_CPU": "0", "CUDA_VISIBLE_DEVICES": ""},
            [
                "2 processes were launched but each formed a group of 1; without GPUs, set"
                " ACCELERATE_USE_CPU=1"
            ],
        ),
        (
            ["--data.batch_size=5"],
            {},
            [f"error: rank {rank}: data.batch_size=5 cannot be shared by 2 ranks" for rank in (0, 1)],
        ),
    ],
    ids=["separate groups", "unequal shares"],
)
def test_two_ranks_that_cannot_train_are_refused(shards, tmp_path, options, environment, words):
    config = write_config(tmp_path, tiny_config(shards, tmp_path))
    done = launch("launch/train.py", config, *options, ranks=2, **environment)
    assert done.returncode != 0 and all(each in done.stderr for each in words), done.stderr
    assert not (tmp_path / "tiny").exists()
