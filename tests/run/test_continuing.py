"""Runs that are continued, moved or started from the checkpoint of another."""

import math
import shutil

import pytest
import torch
from conftest import tiny_config, write_folder
from distributed_worker import noting_loader
from run_files import records, with_steps
from safetensors.torch import load_file
from whole_runs import edit_state

from srgan_dist.config import ConfigError
from srgan_dist.models.weights_file import load_generator, read_facts
from srgan_dist.optim.muon import AdamConfig, MuonConfig
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.phases.schedule import Cosine
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.tensor_files import CheckpointError


def test_records_after_the_checkpoint_are_forgotten_on_resume(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    train(config)
    seen = [r["samples_seen"] for r in records(run) if "loss/generator" in r]
    assert seen == [8, 16, 24]


def test_a_finished_run_is_not_trained_again(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    train(config)
    before = (tmp_path / "tiny" / "metrics.jsonl").read_text()
    assert list(train(config).state.phase_ends) == ["pretrain"]
    assert (tmp_path / "tiny" / "metrics.jsonl").read_text() == before


def test_settings_that_decide_nothing_may_change_while_a_run_is_continued(shards, tmp_path):
    config = tiny_config(shards, tmp_path / "here", adversarial=None, checkpoint_every=4)
    train(config)
    shutil.rmtree(tmp_path / "here" / "tiny" / "checkpoints" / "step-00000006")
    (tmp_path / "here").rename(tmp_path / "there")
    changes = {
        "output": str(tmp_path / "there"),
        "log_every": 1,
        "num_sample_images": 0,
        "keep_checkpoints": 1,
        "cpu_threads": 2,
        "device": "cpu",
        "group_timeout_minutes": 5,
    }
    assert list(train(config.model_copy(update=changes)).state.phase_ends) == ["pretrain"]
    assert [r["samples_seen"] for r in records(tmp_path / "there" / "tiny") if "loss/generator" in r] == [
        8,
        16,
        20,
        24,
    ]


def test_rebuilt_data_are_told_from_those_a_run_began_with(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "set")
    config = tiny_config(copy, tmp_path, adversarial=None)
    train(config)
    shutil.rmtree(copy)
    build(
        write_folder(tmp_path / "hr", {"sandstone": 6, "coal": 5}),
        copy,
        BuildOptions(tile=80, crop=32, samples_per_shard=3, seed=1),
    )
    with pytest.raises(
        UserError,
        match="step-00000006 was saved with other settings \\(data.path \\(its content\\):"
        " \\[\\['[0-9a-f]{64}', 1.0\\]\\] -> ",
    ):
        train(config)


def test_a_run_without_a_checkpoint_starts_anew_but_keeps_finished_weights_of_another_config(
    shards, tmp_path
):
    first = train(tiny_config(shards, tmp_path, adversarial=None))
    shutil.rmtree(tmp_path / "tiny" / "checkpoints")
    with pytest.raises(ConfigError, match="holds a run with another config \\(seed: 0 -> 5\\)"):
        train(tiny_config(shards, tmp_path, adversarial=None, seed=5))
    again = train(tiny_config(shards, tmp_path, adversarial=None))
    assert torch.equal(again.generator.tail.weight, first.generator.tail.weight)
    shutil.rmtree(tmp_path / "tiny" / "checkpoints")
    shutil.rmtree(tmp_path / "tiny" / "weights")
    assert train(tiny_config(shards, tmp_path, adversarial=None, seed=5)).state.global_step == 6
    assert (
        min(r["samples_seen"] for r in records(tmp_path / "tiny")) == 8
        and len(records(tmp_path / "tiny")) == 5
    )


def test_a_record_that_a_crash_cut_off_is_dropped_on_resume(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(text[:2]) + '\n{"samples_seen": 16, "loss/pi')
    train(config)
    assert [r["samples_seen"] for r in records(run) if "loss/generator" in r] == [8, 16, 24]


def test_a_set_of_data_train_may_be_moved(shards, tmp_path):
    first = shutil.copytree(shards, tmp_path / "first")
    data = {"path": str(shards), "lr_crop": 8, "batch_size": 4}
    config = tiny_config(
        shards, tmp_path, data=data | {"train": [{"path": str(first)}]}, adversarial=None, checkpoint_every=3
    )
    train(config)
    second = first.rename(tmp_path / "second")
    moved = tiny_config(
        shards, tmp_path, data=data | {"train": [{"path": str(second)}]}, adversarial=None, checkpoint_every=3
    )
    assert train(moved).state.global_step == 6


def test_the_way_to_a_checkpoint_may_be_a_relative_one(shards, tmp_path, monkeypatch):
    train(tiny_config(shards, tmp_path, checkpoint_every=3))
    monkeypatch.chdir(tmp_path / "tiny" / "checkpoints" / "step-00000009")
    train(tiny_config(shards, tmp_path, name="other"), resume=".")
    assert (tmp_path / "other" / "weights" / "pretrain.safetensors").exists()


def test_a_guard_that_was_off_when_a_checkpoint_was_saved_begins_anew(shards, tmp_path, capsys):
    config = tiny_config(shards, tmp_path, checkpoint_every=3)
    train(config)
    guards = {"max_spike": 50.0, "ema_decay": 0.5}
    other = with_steps(config.model_copy(update={"name": "other"}), adversarial=guards)
    trained = train(other, resume=str(tmp_path / "tiny" / "checkpoints" / "step-00000009"))
    assert trained.state.global_step == 10
    said = capsys.readouterr().out
    for label in ("generator_average", "generator_usual", "discriminator_usual"):
        assert f"step-00000009 holds no {label}, which begins new" in said
    saved = load_file(
        tmp_path / "other" / "checkpoints" / "step-00000010" / "discriminator_usual.safetensors"
    )
    assert saved["counts"].tolist() == [1, 1]


def test_a_guard_that_is_off_when_a_run_goes_on_is_said_to_be_left_out(shards, tmp_path, capsys):
    config = tiny_config(shards, tmp_path, checkpoint_every=3)
    guards = {"max_spike": 50.0, "ema_decay": 0.5}
    train(with_steps(config, adversarial=guards))
    train(
        config.model_copy(update={"name": "other"}),
        resume=str(tmp_path / "tiny" / "checkpoints" / "step-00000009"),
    )
    said = capsys.readouterr().out
    for label in ("generator_average", "generator_usual", "discriminator_usual"):
        assert f"step-00000009 holds a {label}, which this config leaves out" in said


@pytest.mark.parametrize(
    "there, here",
    [
        (AdamConfig(name="adam"), MuonConfig(name="muon")),
        (MuonConfig(name="muon"), AdamConfig(name="adam")),
    ],
)
def test_a_phase_does_not_go_on_with_another_optimizer(shards, tmp_path, there, here):
    config = tiny_config(shards, tmp_path, checkpoint_every=3, keep_checkpoints=9)
    start = tmp_path / "tiny" / "checkpoints" / "step-00000003"
    train(with_steps(config, pretrain={"optimizer": there}))
    other = with_steps(config.model_copy(update={"name": "other"}), pretrain={"optimizer": here})
    text = rf"pretrain.optimizer.name = {here.name}: .*step-00000003 .* {there.name}"
    with pytest.raises(CheckpointError, match=text):
        train(other, resume=str(start))


def test_a_run_from_a_checkpoint_brings_the_weights_of_finished_phases_along(shards, tmp_path):
    config = tiny_config(shards, tmp_path, checkpoint_every=3)
    train(config)
    start = tmp_path / "tiny" / "checkpoints" / "step-00000009"
    train(config.model_copy(update={"name": "other"}), resume=str(start))
    for phase in ("pretrain", "adversarial"):
        one, other = (
            load_generator(tmp_path / run / "weights" / f"{phase}.safetensors")[0]
            for run in ("tiny", "other")
        )
        assert torch.equal(one.tail.weight, other.tail.weight)
    with pytest.raises(
        UserError,
        match="was saved after pretrain, adversarial, but the phases of this config are adversarial",
    ):
        preflight(config.model_copy(update={"name": "third", "pretrain": None}), resume=str(start))
    with pytest.raises(
        ConfigError, match="--resume AUTO is none of auto, never and a checkpoint, e.g. runs/NAME/checkpoints"
    ):
        preflight(config.model_copy(update={"name": "third"}), resume="AUTO")


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": -5},
        {"global_step": 2**63},
        {"phase_step": 1000},
        {"phase_seconds": None},
        {"best": {"pretrain": {"foo": 1.0}}},
        {"finished": ["adversarial"]},
        {"more": 1},
        {"phase": "gan"},
    ],
)
def test_a_state_that_cannot_be_is_refused(shards, tmp_path, change):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    run = tmp_path / "tiny" / "checkpoints"
    shutil.rmtree(run / "step-00000006")
    edit_state(run / "step-00000004", change)
    with pytest.raises(UserError, match="step-00000004 (holds no state|was saved after)"):
        train(config)


def test_resuming_by_path_continues_the_own_run_once_there_is_one(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=2)
    train(config)
    start = str(tmp_path / "tiny" / "checkpoints" / "step-00000004")
    other = config.model_copy(update={"name": "other"})
    train(other, resume=start)
    assert preflight(other, resume=start).checkpoint == tmp_path / "other" / "checkpoints" / "step-00000006"
    with pytest.raises(UserError, match="step-00000004 was saved with other settings \\(seed: 0 -> 1\\)"):
        preflight(config.model_copy(update={"name": "third", "seed": 1}), resume=start)


def noted_crops(monkeypatch):
    """Return a list that fills with digests of the crops of every update that is trained on."""
    seen = []
    monkeypatch.setattr("srgan_dist.run.training_run.TrainLoader", noting_loader(seen))
    return seen


@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_new_run_may_go_on_with_another_batch_at_the_same_crop(
    shards, tmp_path, monkeypatch, capsys, batch_size
):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=2, keep_checkpoints=9)
    config = with_steps(config, pretrain={"steps": 12})
    seen = noted_crops(monkeypatch)
    train(config)
    order = [crop for update in seen for crop in update]
    start = str(tmp_path / "tiny" / "checkpoints" / "step-00000004")
    data = config.data.model_copy(update={"batch_size": batch_size})
    other = with_steps(config.model_copy(update={"name": "other", "data": data}), pretrain={"steps": 8})

    seen.clear()
    capsys.readouterr()
    whole = train(other, resume=start)
    assert [len(update) for update in seen] == [batch_size] * 4
    assert [crop for update in seen for crop in update] == order[16 : 16 + 4 * batch_size]
    assert f"data.batch_size: 4 -> {batch_size}; goes on behind the 16 crops that were seen in 4" in (
        capsys.readouterr().out
    )
    logged = [r["samples_seen"] for r in records(tmp_path / "other") if "loss/generator" in r]
    assert logged == [16 + 2 * batch_size, 16 + 4 * batch_size] and whole.state.phase_step == 0
    assert read_facts(tmp_path / "other" / "weights" / "pretrain.safetensors")["samples_seen"] == logged[-1]

    # From then on it resumes itself, bit for bit, and refuses another batch
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "step-00000008")
    seen.clear()
    resumed = train(other)
    assert [crop for update in seen for crop in update] == order[16 + 2 * batch_size : 16 + 4 * batch_size]
    for name, value in resumed.generator.state_dict().items():
        assert torch.equal(value, whole.generator.state_dict()[name])
    with pytest.raises(ConfigError, match=f"another config \\(data.batch_size: {batch_size} -> 4\\)"):
        train(other.model_copy(update={"data": config.data}))

    # And back again
    third = with_steps(config.model_copy(update={"name": "third"}), pretrain={"steps": 9})
    state = preflight(third, resume=str(tmp_path / "other" / "checkpoints" / "step-00000008")).state
    assert state.samples_seen(4) == 16 + 4 * batch_size


def test_a_position_before_the_first_crop_is_refused(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None)
    train(config)
    edit_state(tmp_path / "tiny" / "checkpoints" / "step-00000006", {"sample_offset": -25})
    with pytest.raises(UserError, match="sample_offset=-25 at global_step=6 is no position in the data"):
        train(config)


def test_a_resumed_phase_keeps_to_its_time_and_its_annealed_rate(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=2, log_every=1)
    config = with_steps(config, pretrain={"max_seconds": 1000.0, "lr_schedule": Cosine(name="cosine")})
    train(config)
    run = tmp_path / "tiny"
    for newer in ("step-00000006",):
        shutil.rmtree(run / "checkpoints" / newer)
    train(config)
    rates = [r["lr/generator"] for r in records(run) if "lr/generator" in r]
    assert rates == pytest.approx(
        [1e-3 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)], rel=1e-3
    )


def test_a_run_directory_of_another_config_is_refused(shards, tmp_path):
    train(tiny_config(shards, tmp_path, adversarial=None))
    with pytest.raises(ConfigError, match="holds a run with another config \\(seed: 0 -> 7\\)"):
        train(tiny_config(shards, tmp_path, adversarial=None, seed=7))
    with pytest.raises(ConfigError, match="--resume never: .*has checkpoints of its own"):
        train(tiny_config(shards, tmp_path, adversarial=None), resume="never")


def test_a_run_can_start_from_the_checkpoint_of_another(shards, tmp_path):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    train(config)
    other = train(
        config.model_copy(update={"name": "other"}),
        resume=str(tmp_path / "tiny" / "checkpoints" / "step-00000004"),
    )
    assert other.state.global_step == 6
    with pytest.raises(ValueError, match="nowhere is none of auto, never and a checkpoint"):
        train(config.model_copy(update={"name": "third"}), resume=str(tmp_path / "nowhere"))


def test_a_phase_is_skipped_by_giving_its_weights(shards, tmp_path):
    first = train(tiny_config(shards, tmp_path, name="first", adversarial=None))
    path = tmp_path / "first" / "weights" / "pretrain.safetensors"
    config = tiny_config(shards, tmp_path, name="second")
    config = with_steps(config, pretrain={"weights": str(path)})
    second = train(config)
    assert second.state.global_step == 4
    exported, _ = load_generator(tmp_path / "second" / "weights" / "pretrain.safetensors")
    assert torch.equal(exported.tail.weight, first.generator.tail.weight)
