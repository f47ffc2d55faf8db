"""Trainings of both phases: their records, weights and scores, and the command."""

import shutil
import sys

import pytest
import torch
from commands import ACCELERATE, TRAIN, run, write_config
from conftest import tiny_config
from run_files import records, with_steps
from safetensors.torch import load_file

from srgan_dist.config import dump_config
from srgan_dist.data.split import open_split
from srgan_dist.models.weights_file import load_generator
from srgan_dist.training import train


def test_both_phases_leave_weights_checkpoints_records_and_sample_images(shards, tmp_path):
    trained = train(tiny_config(shards, tmp_path))
    run_directory = tmp_path / "tiny"
    assert {path.name for path in run_directory.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "run.json",
        "samples",
        "checkpoints",
        "weights",
    }
    assert list(trained.state.phase_ends) == ["pretrain", "adversarial"] and trained.state.global_step == 10
    names = {name for record in records(run_directory) for name in record}
    assert names >= {
        "samples_seen",
        "loss/pixel",
        "loss/adversarial",
        "loss/generator",
        "loss/discriminator",
        "d/real",
        "d/fake",
        "train/psnr",
        "val/psnr",
        "val/psnr_gain",
        "val/ssim",
        "test/psnr",
        "speed/samples_per_second",
        "speed/data_wait",
        "lr/generator",
    }
    seen = [record["samples_seen"] for record in records(run_directory)]
    assert seen == sorted(seen) and seen[-1] == 40
    adversarial, facts = load_generator(run_directory / "weights" / "adversarial.safetensors")
    assert (
        facts["phase"] == "adversarial"
        and facts["config"]["name"] == "tiny"
        and set(facts["scores"]) == {"valid", "test"}
    )
    for name, value in trained.generator.state_dict().items():
        assert torch.equal(adversarial.state_dict()[name], value)
    pretrain, _ = load_generator(run_directory / "weights" / "pretrain.safetensors")
    assert not torch.equal(pretrain.tail.weight, adversarial.tail.weight)
    assert [path.name for path in sorted((run_directory / "samples").iterdir())] == [
        "step-00000006.png",
        "step-00000010.png",
    ]


def test_the_same_config_gives_the_same_run_and_another_seed_another(shards, tmp_path):
    def losses(name, **changes):
        train(tiny_config(shards, tmp_path, name=name, **changes))
        return [
            (r["samples_seen"], r["loss/generator"])
            for r in records(tmp_path / name)
            if "loss/generator" in r
        ]

    first = losses("first")
    assert losses("second") == first and losses("third", seed=1) != first


def test_validation_psnr_is_of_whole_images_and_gain_is_over_bicubic(shards, tmp_path):
    from srgan_dist.evaluation.scoring import methods_of, score_split

    trained = train(tiny_config(shards, tmp_path, adversarial=None))
    split = open_split(shards, "valid")
    rows = score_split(
        split, methods_of({"SR": trained.generator.eval()}, 4, torch.device("cpu")), 0, 1, torch.device("cpu")
    )
    ours = [row["psnr"] for row in rows if row["method"] == "SR"]
    bicubic = [row["psnr"] for row in rows if row["method"] == "bicubic"]
    record = [r for r in records(tmp_path / "tiny") if "val/psnr" in r][-1]
    assert record["val/psnr"] == pytest.approx(sum(ours) / 2, abs=1e-4)
    assert record["val/psnr_gain"] == pytest.approx((sum(ours) - sum(bicubic)) / 2, abs=1e-4)


def test_accelerates_own_accumulation_changes_nothing(shards, tmp_path, monkeypatch):
    expected = train(tiny_config(shards, tmp_path / "one")).generator.state_dict()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(tiny_config(shards, tmp_path / "two"))
    one, two = (
        [
            {
                name: value
                for name, value in record.items()
                if name != "time" and not name.startswith("speed/")
            }
            for record in records(tmp_path / number / "tiny")
        ]
        for number in ("one", "two")
    )
    assert one == two and expected


TO_FULL_DISK = """
import os, runpy, sys
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_behind_stdout_does_not_end_a_training(shards, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(shards, tmp_path)))
    done = run(sys.executable, "-c", TO_FULL_DISK, *TRAIN[1:], tmp_path / "config.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stdout cannot be written ([Errno 28] No space left on device)") == 1
    assert (tmp_path / "tiny" / "weights" / "adversarial.safetensors").exists()


def test_the_average_of_the_generator_is_validated_kept_and_continued_from(shards, tmp_path):
    averaging = {"ema_decay": 0.9}
    config = with_steps(
        tiny_config(shards, tmp_path, checkpoint_every=2, keep_checkpoints=9),
        pretrain=averaging,
        adversarial=averaging,
    )
    train(config)
    run, bare = tmp_path / "tiny", tmp_path / "tiny" / "checkpoints" / "step-00000004"
    saved = load_file(bare / "generator_average.safetensors")
    assert any(
        not torch.equal(value, load_file(bare / "generator.safetensors")[name])
        for name, value in saved.items()
    )
    # A phase ends with the average, and the next begins with it
    for name, end in (("pretrain", 6), ("adversarial", 10)):
        exported = load_file(run / "weights" / f"{name}.safetensors")
        kept = load_file(run / "checkpoints" / f"step-{end:08d}" / "generator.safetensors")
        assert all(torch.equal(value, kept[key]) for key, value in exported.items())
    final = load_file(run / "weights" / "adversarial.safetensors")
    whole = records(run)
    for newer in (6, 8, 10):  # as if it had been killed after update 4
        shutil.rmtree(run / "checkpoints" / f"step-{newer:08d}")
    shutil.rmtree(run / "weights")
    train(config)
    assert all(
        torch.equal(value, final[key])
        for key, value in load_file(run / "weights" / "adversarial.safetensors").items()
    )
    assert [r["val/psnr"] for r in records(run) if "val/psnr" in r] == [
        r["val/psnr"] for r in whole if "val/psnr" in r
    ]
    plain = train(tiny_config(shards, tmp_path / "plain"))
    scores = [r["val/psnr"] for r in records(tmp_path / "plain" / "tiny") if "val/psnr" in r]
    assert scores != [r["val/psnr"] for r in whole if "val/psnr" in r] and list(plain.state.phase_ends)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks there itself
def test_compiled_networks_learn_the_same(shards, tmp_path):
    losses = {
        "pixel": {"name": "l1"},
        "perceptual": {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1e-2},
    }
    adversarial = {"steps": 3, "learning_rate": 1e-3, "lr_schedule": {"name": "constant"}, "losses": losses}
    eager, compiled = (
        train(tiny_config(shards, tmp_path / str(choice), compile=choice, adversarial=adversarial))
        for choice in (False, True)
    )
    for ours, theirs in (
        (compiled.generator, eager.generator),
        (compiled.discriminator, eager.discriminator),
    ):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in eager.generator.state_dict().items():
        torch.testing.assert_close(compiled.generator.state_dict()[name], value, rtol=0, atol=2e-3)
    scores = [
        [r["val/psnr"] for r in records(tmp_path / str(choice) / "tiny") if "val/psnr" in r]
        for choice in (False, True)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_a_phase_ends_with_its_time(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    trained = train(with_steps(config, pretrain={"steps": 10**9, "max_seconds": 0.5}))
    assert list(trained.state.phase_ends) == ["pretrain"] and 2 <= trained.state.global_step < 10**6


def test_the_command_trains_under_accelerate_launch(shards, tmp_path):
    config = write_config(tmp_path, tiny_config(shards, tmp_path))
    launcher = "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    settings = ("--pretrain.steps=2", "--mixed_precision=bf16", "--tracking.wandb=offline")
    done = run(*ACCELERATE, *launcher, "launch/train.py", config, *settings)
    assert done.returncode == 0, done.stderr
    assert "\npretrain, valid " in done.stdout and "adversarial is finished" in done.stdout
    assert (tmp_path / "tiny" / "wandb").is_dir()


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["--pretrain.step=2"], 1, "pretrain.step = 2: is not a setting; the nearest is pretrain.steps"),
        (["--dry-run"], 0, "phases, 4 crops an update"),
        (["extra"], 2, "unexpected extra"),
    ],
)
def test_the_command_names_an_error_without_a_traceback(shards, tmp_path, options, code, words):
    done = run(*TRAIN, write_config(tmp_path, tiny_config(shards, tmp_path)), *options)
    assert done.returncode == code and words in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr and "406" not in done.stderr
