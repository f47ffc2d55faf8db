"""Runs that are stopped, killed or starved of disk, and what becomes of them: compared bit for bit with one that was left alone."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY, full_disk, read_only, tiny_config
from distributed_worker import DEATHS, digest
from safetensors.torch import load_file
from test_distributed import WORKER, launch, work
from test_training import edit_state

from srgan_dist.config import dump_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.models.weights_file import load_generator
from srgan_dist.phases.schedule import Constant, Cosine
from srgan_dist.run import training_run
from srgan_dist.run.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.tensor_files import CheckpointError

EVERYTHING = {
    f"{network}{part}" for network in ("generator", "discriminator") for part in ("", "_optimizer", "_usual")
}
PHASE_1, PHASE_2 = 9, 6  # updates; an epoch of 7 images in batches of 4 ends after update 7 and 14
STOPS = {
    "phase 1": 4,
    "end of epoch in phase 1": 7,
    "boundary": 9,
    "phase 2": 11,
    "end of epoch in phase 2": 14,
    "end": 15,
}


@contextlib.contextmanager
def on_cpu_and_quick():
    """Train on CPU, and leave it to the system when files reach the disk: only a loss of power would show it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def surroundings():
    with on_cpu_and_quick():
        yield


def config_of(shards, output, **changes):
    """A config whose run leaves a checkpoint at every update."""
    config = tiny_config(
        shards,
        output,
        checkpoint_every=1,
        keep_checkpoints=99,
        log_every=2,
        validate_every=3,
        num_sample_images=0,
    )
    phases = {
        name: getattr(config, name).model_copy(
            update={"steps": steps, "lr_schedule": Cosine(name="cosine"), "max_spike": 50.0}
        )
        for name, steps in (("pretrain", PHASE_1), ("adversarial", PHASE_2))
    }
    return config.model_copy(update={"name": "run", **phases} | changes)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The directory of a run that was left alone."""
    output = tmp_path_factory.mktemp("whole")
    with on_cpu_and_quick():
        train(config_of(shards, output))
    return output / "run"


def stopped(whole, output, update):
    """Copy a run as a process that died after `update` would have left it; its records may be ahead of its checkpoint."""
    run = shutil.copytree(whole, output / "run")
    for path in list_checkpoints(run / "checkpoints"):
        if int(path.name.removeprefix("step-")) > update:
            shutil.rmtree(path)
    for phase, end in (("pretrain", PHASE_1), ("adversarial", PHASE_1 + PHASE_2)):
        if update < end:
            shutil.rmtree(run / "weights" / "best" / f"{phase}.safetensors", ignore_errors=True)
            (run / "weights" / f"{phase}.safetensors").unlink()
    return run


def contents(run):
    """Return all that has to be equal: networks, buffers and optimisers of every checkpoint by sha256, states, weights, records."""
    checkpoints = {
        path.name: json.loads((path / "manifest.json").read_text())["files"]
        for path in list_checkpoints(run / "checkpoints")
    }
    states = {
        path.name: json.loads((path / "state.json").read_text())
        for path in list_checkpoints(run / "checkpoints")
    }
    for name, state in states.items():
        del checkpoints[name]["state.json"], state["phase_seconds"]
    return {
        "checkpoints": checkpoints,
        "states": states,
        "records": records(run),
        "weights": {
            path.relative_to(run): weights_of(path) for path in (run / "weights").rglob("*.safetensors")
        },
    }


def weights_of(path):
    generator, facts = load_generator(path)
    return digest(generator), facts["phase"], facts["phase_number"], facts["samples_seen"], facts["scores"]


def records(run):
    """Return what was logged, without times and speeds."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name != "time" and not name.startswith("speed/")}
        for line in lines
    ]


def test_a_run_keeps_all_that_the_comparisons_below_compare(whole):
    found = contents(whole)
    assert list(found["checkpoints"]) == [f"step-{update:08d}" for update in range(15, 0, -1)]
    pretrain = {"generator", "generator_optimizer", "generator_usual"}
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


@pytest.mark.parametrize("update", STOPS.values(), ids=STOPS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(shards, whole, tmp_path, update):
    run = stopped(whole, tmp_path, update)
    trained = train(config_of(shards, tmp_path))
    assert contents(run) == contents(whole)
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
    ours, theirs = contents(tmp_path / "run"), contents(whole)
    assert (
        ours["weights"] == theirs["weights"]
        and ours["checkpoints"]["step-00000015"] == theirs["checkpoints"]["step-00000015"]
    )


# What would go wrong if something were not restored


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
def test_the_comparison_notices_what_is_not_restored(shards, whole, tmp_path, monkeypatch, forget, differ):
    run = stopped(whole, tmp_path, 11)
    forget(monkeypatch)
    train(config_of(shards, tmp_path))
    ours, theirs = (contents(folder)["checkpoints"]["step-00000015"] for folder in (run, whole))
    assert {name.removesuffix(".safetensors") for name in theirs if ours[name] != theirs[name]} == differ


# More ranks


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_again_and_again_end_as_if_they_had_been_left_alone(
    shards, tmp_path
):
    config = config_of(shards, tmp_path / "left")
    left = work("train", config, tmp_path / "whole", 2)
    out = tmp_path / "mortal"
    out.mkdir()
    (out / "config.yaml").write_text(
        dump_config(config.model_copy(update={"output": str(tmp_path / "killed")}))
    )
    for update in DEATHS:
        done = launch(WORKER, "mortal", out / "config.yaml", out, ranks=2)
        assert done.returncode != 0 and (out / f"death{update}").exists(), done.stderr[-3000:]
        assert not (out / "rank0.json").exists()
    done = launch(WORKER, "mortal", out / "config.yaml", out, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert killed == left and killed[0] == killed[1]  # with the buffers of both
    assert contents(tmp_path / "killed" / "run") == contents(tmp_path / "left" / "run")


# Killed processes


def killing(*arguments):
    """Run killing.py, which see."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "tests/killing.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_save_that_is_killed_at_any_line_leaves_the_checkpoint_before_it_or_the_new_one(tmp_path):
    for found in killing("lines", tmp_path):
        assert set(found) == {2, 3} and found == sorted(found) and min(found.count(2), found.count(3)) > 20


@pytest.mark.slow
def test_fifty_kills_half_of_them_inside_a_save_never_lose_a_checkpoint_or_change_the_result(
    shards, whole, tmp_path
):
    (tmp_path / "config.yaml").write_text(dump_config(config_of(shards, tmp_path, keep_checkpoints=2)))
    report = killing("training", tmp_path / "config.yaml", 50)
    assert report["kills"] == 50 and report["inside"] >= 15 and len(set(report["updates"])) > 5
    expected = contents(whole)
    for run in (tmp_path / name for name in report["runs"]):
        left = contents(run)
        assert {"step-00000009", "step-00000014", "step-00000015"} <= set(
            left["checkpoints"]
        )  # more if killed in the last removal
        assert left == expected | {
            kind: {name: expected[kind][name] for name in left[kind]} for kind in ("checkpoints", "states")
        }
        assert not [path for path in run.rglob("*.unfinished") if path.parent.name != "checkpoints"]


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
    train(
        tiny_config(
            shards,
            tmp_path,
            adversarial=None,
            checkpoint_every=every,
            checkpoint_minutes=minutes,
            keep_checkpoints=99,
        )
    )
    assert [path.name for path in sorted((tmp_path / "tiny" / "checkpoints").iterdir())] == [
        f"step-{update:08d}" for update in updates
    ]


# Disks that are full or read-only, files that are damaged

HALF = 65_000  # bytes: less than the discriminator has, more than all else


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_but_not_the_training(
    shards, whole, tmp_path, monkeypatch, caplog
):
    def save_with_little_room(directory, name, *arguments):
        with full_disk(HALF) if 10 <= int(name.removeprefix("step-")) <= 12 else contextlib.nullcontext():
            save_checkpoint(directory, name, *arguments)

    monkeypatch.setattr("srgan_dist.run.checkpoint_writer.save_checkpoint", save_with_little_room)
    train(config_of(shards, tmp_path))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3 and all(
        f": the training goes on without checkpoint: {tmp_path}/run/checkpoints/step-{update:08d} cannot be written"
        in text
        for update, text in zip((10, 11, 12), warnings)
    )
    left, expected = contents(tmp_path / "run"), contents(whole)
    for update in (10, 11, 12):
        del expected["checkpoints"][f"step-{update:08d}"], expected["states"][f"step-{update:08d}"]
    assert left == expected


def test_a_checkpoint_that_fails_while_a_phase_ends_does_not_cost_that_of_its_end(
    shards, whole, tmp_path, monkeypatch, caplog
):
    def fails_late(directory, name, *arguments):
        if name == "step-00000008":
            time.sleep(1)
            raise CheckpointError(f"{directory / name} cannot be written")
        save_checkpoint(directory, name, *arguments)

    monkeypatch.setattr("srgan_dist.run.checkpoint_writer.save_checkpoint", fails_late)
    train(config_of(shards, tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f"update 9: the training goes on without checkpoint: {tmp_path}/run/checkpoints/step-00000008 cannot be written"
    ]
    assert contents(tmp_path / "run")["checkpoints"].keys() == contents(whole)["checkpoints"].keys() - {
        "step-00000008"
    }


def test_a_disk_that_is_full_at_the_end_of_a_phase_is_an_error_and_the_run_goes_on_later(
    shards, whole, tmp_path, caplog
):
    with full_disk(HALF), pytest.raises(CheckpointError, match="step-00000015 cannot be written .*Make room"):
        train(config_of(shards, tmp_path))
    assert len(caplog.records) == 5  # the updates of phase 2 before its last
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[1]["global_step"] == 9
    assert train(config_of(shards, tmp_path)).state.global_step == 15
    assert contents(tmp_path / "run") == contents(whole)


def test_a_disk_that_has_no_room_for_weights_is_an_error_at_the_end_of_a_phase_only(
    shards, whole, tmp_path, caplog
):
    with (
        full_disk(20_000),
        pytest.raises(CheckpointError, match="weights/pretrain.safetensors cannot be written .*Make room"),
    ):
        train(config_of(shards, tmp_path))
    assert sum("goes on without best weights" in record.getMessage() for record in caplog.records) >= 2
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    train(config_of(shards, tmp_path))
    assert contents(tmp_path / "run") == contents(whole)


def test_panels_that_cannot_be_written_cost_a_warning(shards, tmp_path, caplog):
    config = config_of(shards, tmp_path, num_sample_images=1, adversarial=None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").write_text("a file in the way of a folder")
    assert train(config).state.phase_ends == {"pretrain": 9}
    assert sum("goes on without panels" in record.getMessage() for record in caplog.records) == 3


def test_a_run_directory_without_the_right_to_write_is_named_before_anything_is_trained(shards, open_folder):
    data = shutil.copytree(shards, open_folder / "set")
    config = config_of(data, open_folder, adversarial=None)
    with (
        read_only(open_folder),
        pytest.raises(
            UserError, match="^output=.*run cannot be written \\(.*Permission denied.*choose another folder"
        ),
    ):
        train(config)
    train(config)
    before = contents(open_folder / "run")
    with (
        read_only(open_folder / "run"),
        pytest.raises(UserError, match="^output=.*run cannot be written \\(.*Permission denied"),
    ):
        train(config)
    assert contents(open_folder / "run") == before


def test_a_disk_that_is_full_at_the_start_is_named(shards, tmp_path):
    with (
        full_disk(500),
        pytest.raises(UserError, match="^output=.*run cannot be written \\(.*File too large.*make room"),
    ):
        train(config_of(shards, tmp_path))


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    shards, whole, tmp_path, caplog
):
    run = stopped(whole, tmp_path, 11)
    file = run / "checkpoints" / "step-00000011" / "discriminator.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    train(config_of(shards, tmp_path))
    assert (
        "skipped a checkpoint: " in caplog.text
        and "step-00000011/discriminator.safetensors is not what was saved" in caplog.text
    )
    assert contents(run) == contents(whole)


# The best validation


def test_the_best_generator_of_a_phase_is_exported_and_its_checkpoint_stays(shards, tmp_path):
    config = config_of(shards, tmp_path, keep_checkpoints=1, validate_every=1)
    rates = {"pretrain": 0.1, "adversarial": 0.2}
    config = config.model_copy(
        update={
            name: getattr(config, name).model_copy(
                update={"learning_rate": rate, "lr_schedule": Constant(name="constant")}
            )
            for name, rate in rates.items()
        }
    )
    state = train(config.model_copy(update={"keep_checkpoints": 99, "name": "all"})).state
    train(config)
    kept = {"step-00000009", "step-00000015"}
    for phase, first, last in (("pretrain", 1, 9), ("adversarial", 10, 15)):
        scores = {
            r["samples_seen"] // 4: r["val/psnr"]
            for r in records(tmp_path / "all")
            if "val/psnr" in r and first <= r["samples_seen"] / 4 <= last
        }
        best = max(scores, key=scores.get)
        assert len(scores) == last - first + 1 and best != last
        assert (
            state.best[phase].global_step == best
            and state.best[phase].psnr == scores[best]
            and state.best[phase].phase_step == best - first + 1
        )
        generator, facts = load_generator(tmp_path / "run" / "weights" / "best" / f"{phase}.safetensors")
        saved = load_file(tmp_path / "all" / "checkpoints" / f"step-{best:08d}" / "generator.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in generator.state_dict().items())
        assert (
            facts["phase"] == phase
            and facts["samples_seen"] == 4 * best
            and set(facts["scores"]) == {"valid"}
        )
        kept.add(f"step-{best:08d}")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == kept


def test_a_run_from_a_checkpoint_of_another_brings_the_best_weights_of_finished_phases_and_finds_its_own(
    shards, whole, tmp_path
):
    start = stopped(whole, tmp_path, 12) / "checkpoints" / "step-00000012"
    best = json.loads((start / "state.json").read_text())["best"]
    edit_state(start, {"best": best | {"adversarial": {"psnr": 99.0, "phase_step": 2, "global_step": 11}}})
    state = train(config_of(shards, tmp_path, name="other", validate_every=1000), resume=str(start)).state
    ours, theirs = (
        {path.name: weights_of(path) for path in (run / "weights" / "best").iterdir()}
        for run in (tmp_path / "other", whole)
    )
    assert (
        ours["pretrain.safetensors"] == theirs["pretrain.safetensors"]
        and state.best["pretrain"].global_step == 9
    )
    assert (
        state.best["adversarial"].global_step == 15 and "adversarial.safetensors" in ours
    )  # its only validation of that phase


def test_best_weights_that_could_not_be_kept_are_not_the_best_that_is_known(
    shards, tmp_path, monkeypatch, caplog
):
    scores = iter([10.0, 30.0, 20.0])

    def keep_best(self, psnr, means):
        return keep(self, next(scores), means)

    def refused(path, *arguments):
        if path.parent.name == "best" and len(caplog.records) == 0 and path.exists():
            raise CheckpointError("no room")
        return save(path, *arguments)

    keep, save = TrainingRun.keep_best, training_run.save_generator
    monkeypatch.setattr(TrainingRun, "keep_best", keep_best)
    monkeypatch.setattr(training_run, "save_generator", refused)
    trained = train(config_of(shards, tmp_path, adversarial=None))
    assert "goes on without best weights: no room" in caplog.text
    assert trained.state.best["pretrain"].psnr == 20.0 and trained.state.best["pretrain"].phase_step == 9
    _, facts = load_generator(tmp_path / "run" / "weights" / "best" / "pretrain.safetensors")
    assert facts["samples_seen"] == 4 * 9


@pytest.mark.parametrize("version", [0, 3, None])
def test_a_state_of_another_version_is_named(shards, whole, tmp_path, version):
    run = stopped(whole, tmp_path, 4)
    edit_state(run / "checkpoints" / "step-00000004", {"version": version})
    with pytest.raises(
        UserError,
        match=f"step-00000004 holds a state of version {version}, this program reads 1 and 2; continue it with",
    ):
        train(config_of(shards, tmp_path))
