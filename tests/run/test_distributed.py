"""Real processes over gloo: two ranks against one."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, tiny_config

from srgan_dist.config import dump_config
from srgan_dist.models.srresnet import SRResNet
from srgan_dist.models.weights_file import save_generator

WORKER = REPOSITORY / "tests" / "distributed_worker.py"


def launch(*command, ranks, environment=()):
    launcher = (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        if ranks > 1
        else [sys.executable]
    )
    variables = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", **dict(environment)}
    done = subprocess.run(
        [*launcher, *map(str, command)],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done


def work(task, config, out, ranks):
    out.mkdir()
    path = out / "config.yaml"
    path.write_text(dump_config(config))
    done = launch(WORKER, task, path, out, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def test_two_ranks_train_both_phases_and_end_with_equal_weights(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "runs", checkpoint_every=3, log_every=3)
    first, second = work("train", config, tmp_path / "two", 2)
    assert first == second  # every weight and every batch-norm buffer
    run = tmp_path / "runs" / "tiny"
    assert (run / "weights" / "adversarial.safetensors").exists()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["samples_seen"] for r in records if "loss/generator" in r] == [12, 24, 36, 40]

    shutil.rmtree(run / "checkpoints" / "step-00000010")  # in phase 2: as if it had been killed there
    (run / "weights" / "adversarial.safetensors").unlink()
    assert work("train", config, tmp_path / "resumed", 2) == [first, first]


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(50))
def test_two_ranks_always_exit_cleanly(shards, tmp_path, attempt):
    phase = {"steps": 2, "lr_schedule": {"name": "constant"}, "losses": {"pixel": {"name": "l1"}}}
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path / "runs", pretrain=None, adversarial=phase)))
    done = launch("launch/train.py", path, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
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
    (one,) = work(
        "train",
        config.model_copy(update={"name": "one", "gradient_accumulation_steps": 1}),
        tmp_path / "one",
        1,
    )
    losses = [
        [
            r["loss/pixel"]
            for r in map(json.loads, (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines())
            if "loss/pixel" in r
        ][:3]
        for name in ("tiny", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)  # of phase 1: the same crops in the same order


def test_ranks_that_find_different_checkpoints_are_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "runs", adversarial=None)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    done = launch(
        "launch/train.py", tmp_path / "config.yaml", f"--output={tmp_path / 'runs' / 'rank0'}", ranks=1
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = launch(WORKER, "apart", tmp_path / "config.yaml", tmp_path, ranks=2)
    assert done.returncode != 0
    assert "the ranks find different checkpoints there (rank 0: step-00000006, rank 1: none)" in done.stderr
    assert not (tmp_path / "runs" / "rank1").exists()


def test_batch_norm_buffers_and_weights_become_those_of_rank_0_when_they_are_shared(shards, tmp_path):
    first, second = work("buffers", tiny_config(shards, tmp_path), tmp_path / "out", 2)
    assert first["own"] != second["own"] and first["shared"] == second["shared"] == first["own"]
    assert first["weights"] == second["weights"] and first["weights"][1] == first["own"]


def test_two_ranks_learn_what_one_learns_in_phase_1(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "runs")
    for ranks in (1, 2):
        work("train", config.model_copy(update={"name": f"ranks{ranks}"}), tmp_path / f"out{ranks}", ranks)
    from srgan_dist.models.weights_file import load_generator

    one, two = (
        load_generator(tmp_path / "runs" / f"ranks{ranks}" / "weights" / "pretrain.safetensors")[0]
        for ranks in (1, 2)
    )
    start = SRResNet(config.generator)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=0, atol=2e-5)  # Adam's steps are 1e-3
        assert not torch.equal(value, start.state_dict()[name])
    losses = [
        [
            r["loss/pixel"]
            for r in map(
                json.loads, (tmp_path / "runs" / f"ranks{ranks}" / "metrics.jsonl").read_text().splitlines()
            )
            if "loss/pixel" in r
        ][:3]
        for ranks in (1, 2)
    ]
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
    assert "valid  coal" in done.stdout and done.stdout.count("written to") == 1


def test_ranks_that_do_not_form_one_group_are_refused(shards, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path)))
    done = launch(
        "launch/train.py",
        path,
        ranks=2,
        environment={"ACCELERATE_USE_CPU": "0", "CUDA_VISIBLE_DEVICES": ""}.items(),
    )
    assert done.returncode != 0
    assert (
        "2 processes were launched but each formed a group of 1; without GPUs, set ACCELERATE_USE_CPU=1"
        in done.stderr
    )
    assert not (tmp_path / "tiny").exists()


def test_a_batch_that_two_ranks_cannot_share_is_refused_by_both(shards, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config(shards, tmp_path)))
    done = launch("launch/train.py", path, "--data.batch_size=5", ranks=2)
    assert done.returncode != 0 and all(
        f"error: rank {rank}: data.batch_size=5 cannot be shared by 2 ranks" in done.stderr for rank in (0, 1)
    )
