"""Disks that are full or read-only and damaged checkpoints: the training continues or names the cause."""

import contextlib
import shutil
import time

import pytest
from conftest import full_disk, read_only
from whole_runs import config_of, contents, on_cpu_and_quick, stopped, train_undisturbed

from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, save_checkpoint
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.tensor_files import CheckpointError


@pytest.fixture(autouse=True)
def surroundings():
    with on_cpu_and_quick():
        yield


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    return train_undisturbed(shards, tmp_path_factory.mktemp("whole"))


HALF = 75_000  # bytes: less than the discriminator has, more than all else


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
        f": the training goes on without checkpoint: {tmp_path}/run/checkpoints/step-{update:08d} cannot be"
        f" written" in text
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
        f"update 9: the training goes on without checkpoint: {tmp_path}/run/checkpoints/step-00000008 cannot"
        f" be written"
    ]
    assert contents(tmp_path / "run")["checkpoints"].keys() == contents(whole)["checkpoints"].keys() - {
        "step-00000008"
    }


def test_a_disk_that_is_full_at_the_end_of_a_phase_is_an_error_and_the_run_continues_later(
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
            UserError, match="^output=.*run cannot be written \\(.*Permission denied.*choose another place"
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
        pytest.raises(UserError, match="^output=.*run cannot be written \\(.*File too large.*Make room"),
    ):
        train(config_of(shards, tmp_path))


def test_a_run_whose_newest_checkpoint_is_damaged_continues_from_the_one_before(
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


def test_a_damaged_checkpoint_takes_the_place_of_no_whole_one(shards, whole, tmp_path):
    run = stopped(whole, tmp_path, 12)
    (run / "checkpoints" / "step-00000012" / "generator.safetensors").write_bytes(b"")
    train(config_of(shards, tmp_path, checkpoint_every=2, keep_checkpoints=3))
    kept = [path.name for path in list_checkpoints(run / "checkpoints")]
    assert kept[:3] == ["step-00000015", "step-00000013", "step-00000011"]
    assert (run / "checkpoints" / "step-00000012.damaged").is_dir()
