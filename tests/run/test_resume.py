"""Runs that are stopped or killed end bit for bit as one that was left alone."""

import functools
import signal

import pytest
import torch
from commands import WORKER, launch, reports, work, write_config
from conftest import tiny_config
from distributed_worker import DEATHS, sending
from whole_runs import (
    EVERYTHING,
    PHASE_1,
    config_of,
    contents,
    edit_state,
    on_cpu_and_quick,
    stopped,
    train_undisturbed,
)

from srgan_dist.data.loader import TrainLoader
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.run.checkpoint import load_checkpoint
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.errors import TrainingStopped, UserError


@pytest.fixture(autouse=True)
def surroundings():
    with on_cpu_and_quick():
        yield


@pytest.fixture(scope="module")
def whole_of(shards_of, tmp_path_factory):
    """whole_of(ndim): an undisturbed run on images or on volumes."""
    return functools.cache(
        lambda ndim: train_undisturbed(shards_of(ndim), tmp_path_factory.mktemp("whole"), ndim)
    )


@pytest.fixture(scope="module")
def whole(whole_of):
    return whole_of(2)


STOPS = {
    "phase 1": 4,
    "end of epoch in phase 1": 7,
    "boundary": 9,
    "phase 2": 11,
    "end of epoch in phase 2": 14,
    "end": 15,
}


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_run_keeps_all_that_the_comparisons_below_compare(whole_of, ndim):
    found = contents(whole_of(ndim))
    assert list(found["checkpoints"]) == [f"step-{update:08d}" for update in range(15, 0, -1)]
    pretrain = {"generator", "generator_optimizer", "generator_muon_optimizer", "generator_usual"}
    assert set(found["checkpoints"]["step-00000009"]) == {f"{name}.safetensors" for name in pretrain}
    assert set(found["checkpoints"]["step-00000010"]) == {f"{name}.safetensors" for name in EVERYTHING}
    assert {str(path) for path in found["weights"]} == {
        f"weights/{folder}{phase}.safetensors"
        for phase in ("pretrain", "adversarial")
        for folder in ("", "best/")
    }
    for name in EVERYTHING:
        hashes = [
            files[f"{name}.safetensors"]["sha256"]
            for files in found["checkpoints"].values()
            if f"{name}.safetensors" in files
        ]
        assert len(set(hashes)) == len(hashes)  # every update changes it, so equality says something
    assert [r["samples_seen"] for r in found["records"] if "loss/generator" in r] == [
        4 * update for update in range(1, 16)
    ]


@pytest.mark.parametrize(
    "ndim, stop", [*((2, stop) for stop in STOPS), (3, "end of epoch in phase 1"), (3, "phase 2")]
)
def test_a_run_that_was_stopped_continues_bit_for_bit(shards_of, whole_of, tmp_path, ndim, stop):
    run_directory = stopped(whole_of(ndim), tmp_path, STOPS[stop])
    trained = train(config_of(shards_of(ndim), tmp_path, ndim))
    assert contents(run_directory) == contents(whole_of(ndim))
    assert trained.state.global_step == 15


@pytest.mark.parametrize("update", [4, 11])
def test_a_run_that_died_before_its_next_checkpoint_repeats_what_was_not_saved(
    shards, whole, tmp_path, monkeypatch, update
):
    class Died(BaseException):
        pass

    def die_after(self, *arguments, **options):
        if self.state.global_step > update:
            raise Died
        return save(self, *arguments, **options)

    save = TrainingRun.save
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", die_after)
        with pytest.raises(Died):
            train(config_of(shards, tmp_path, checkpoint_every=2))
    train(config_of(shards, tmp_path))
    found, expected = contents(tmp_path / "run"), contents(whole)
    assert (
        found["weights"] == expected["weights"]
        and found["checkpoints"]["step-00000015"] == expected["checkpoints"]["step-00000015"]
    )


def test_a_run_that_dies_at_the_end_of_a_phase_records_its_validation_once(
    shards, whole, tmp_path, monkeypatch
):
    class Died(BaseException):
        pass

    def die(*_, **__):
        raise Died

    with monkeypatch.context() as patch:  # the checkpoint after the last update, before the phase has ended
        patch.setattr(PretrainPhase, "update", sending(PretrainPhase.update, signal.SIGTERM, PHASE_1))
        with pytest.raises(TrainingStopped):
            train(config_of(shards, tmp_path))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingRun, "save", die)
            with pytest.raises(Died):
                train(config_of(shards, tmp_path))
    train(config_of(shards, tmp_path))
    assert contents(tmp_path / "run") == contents(whole)


# If a part were not restored


def without_the_cursor(patch):
    batches = TrainLoader.batches
    patch.setattr(TrainLoader, "batches", lambda self, first_update: batches(self, 0))


def without(patch, forgotten):
    def load(path, objects):
        load_checkpoint(path, {name: item for name, item in objects.items() if name != forgotten})

    patch.setattr("srgan_dist.run.training_run.load_checkpoint", load)


def without_the_buffers(patch):
    def load(path, objects):
        networks = [item for item in objects.values() if isinstance(item, torch.nn.Module)]
        fresh = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
        load_checkpoint(path, objects)
        for buffer, value in fresh:
            buffer.copy_(value)

    patch.setattr("srgan_dist.run.training_run.load_checkpoint", load)


FORGOTTEN = {
    "data cursor": (without_the_cursor, EVERYTHING),
    "generator": (lambda patch: without(patch, "generator"), EVERYTHING),
    "discriminator": (lambda patch: without(patch, "discriminator"), EVERYTHING),
    "generator's moments": (lambda patch: without(patch, "generator_optimizer"), EVERYTHING),
    "discriminator's moments": (lambda patch: without(patch, "discriminator_optimizer"), EVERYTHING),
    "usual losses": (lambda patch: without(patch, "generator_usual"), {"generator_usual"}),
    "buffers": (without_the_buffers, {"discriminator", "discriminator_usual", "generator_usual"}),
}


@pytest.mark.parametrize("forget, differ", FORGOTTEN.values(), ids=FORGOTTEN)
def test_the_comparison_notices_a_part_that_is_not_restored(
    shards, whole, tmp_path, monkeypatch, forget, differ
):
    run_directory = stopped(whole, tmp_path, 11)
    forget(monkeypatch)
    train(config_of(shards, tmp_path))
    found, expected = (contents(folder)["checkpoints"]["step-00000015"] for folder in (run_directory, whole))
    assert {name.removesuffix(".safetensors") for name in expected if found[name] != expected[name]} == differ


# Killed processes


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_again_and_again_end_as_undisturbed_ones(shards, tmp_path):
    config = config_of(shards, tmp_path / "undisturbed")
    expected = work("train", config, tmp_path / "whole", 2)
    out = tmp_path / "mortal"
    out.mkdir()
    path = write_config(out, config.model_copy(update={"output": str(tmp_path / "killed")}))
    for update in DEATHS:
        done = launch(WORKER, "mortal", path, out, ranks=2)
        assert done.returncode != 0 and (out / f"death{update}").exists(), done.stderr[-3000:]
        assert reports(out) == []
    done = launch(WORKER, "mortal", path, out, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = reports(out)
    assert killed == expected and killed[0] == killed[1]  # with the buffers of both
    assert contents(tmp_path / "killed" / "run") == contents(tmp_path / "undisturbed" / "run")


# Checkpoints


@pytest.mark.parametrize(
    "every, minutes, updates",
    [
        (None, None, [6]),
        (None, 1e-9, range(1, 7)),
        (2, None, [2, 4, 6]),
        (4, 1e9, [4, 6]),
        (4, 1e-9, range(1, 7)),
    ],
)
def test_checkpoints_come_by_updates_by_the_clock_or_by_both(shards, tmp_path, every, minutes, updates):
    when = {"checkpoint_every": every, "checkpoint_minutes": minutes, "keep_checkpoints": 99}
    train(tiny_config(shards, tmp_path, adversarial=None, **when))
    assert [path.name for path in sorted((tmp_path / "tiny" / "checkpoints").iterdir())] == [
        f"step-{update:08d}" for update in updates
    ]


@pytest.mark.parametrize("version", [0, 3, None])
def test_a_state_of_another_version_is_named(shards, whole, tmp_path, version):
    run_directory = stopped(whole, tmp_path, 4)
    edit_state(run_directory / "checkpoints" / "step-00000004", {"version": version})
    with pytest.raises(
        UserError,
        match=f"step-00000004 holds a state of version {version}, this program reads 1 and 2; continue it"
        f" with",
    ):
        train(config_of(shards, tmp_path))
