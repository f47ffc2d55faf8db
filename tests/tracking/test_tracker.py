"""Records of a run: on disk at once, the same for wandb, offline and on a server."""

import json
import os
import re
import resource
import sys
import threading
from pathlib import Path

import pytest
from conftest import REPOSITORY, full_disk, tiny_config
from PIL import Image
from trackers import exit_codes, records, rows_of, tracker, without_media
from wandb_stub import history, offline_records, own_columns, read_records, serving

from srgan_dist.run import checkpoint
from srgan_dist.tracking.wandb_worker import STOPPED
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("wandb_environment")


def test_the_records_are_on_the_disk_before_a_checkpoint_is(shards, tmp_path, monkeypatch):
    synced, at_saves, fsync, save = {}, [], os.fsync, checkpoint.save_checkpoint

    def noted_fsync(descriptor):
        fsync(descriptor)
        facts = os.fstat(descriptor)
        synced[facts.st_ino] = facts.st_size

    def noted_save(folder, name, tensors, state, *arguments):
        metrics = folder.parent / "metrics.jsonl"
        on_disk = metrics.read_bytes()[: synced.get(metrics.stat().st_ino, 0)].splitlines()
        at_saves.append(json.loads(on_disk[-1])["samples_seen"] >= 4 * state["global_step"])
        save(folder, name, tensors, state, *arguments)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr("srgan_dist.run.checkpoint_writer.save_checkpoint", noted_save)
    train(tiny_config(shards, tmp_path, checkpoint_every=2))
    assert at_saves == [True] * 5


def test_every_record_is_on_disk_at_once(tmp_path):
    tracked = tracker(tmp_path)
    tracked.log({"loss/pixel": 0.5}, 16)
    assert [(r["samples_seen"], r["loss/pixel"]) for r in records(tmp_path)] == [(16, 0.5)]
    tracked.log({"loss/pixel": 0.25}, 32)
    tracked.finish()
    assert [r["samples_seen"] for r in records(tmp_path)] == [16, 32]


def test_records_that_a_full_disk_refuses_follow_when_there_is_room(tmp_path, caplog):
    tracked = tracker(tmp_path)
    tracked.log({"loss/pixel": 0.5}, 16)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with full_disk(size + 20):  # room for a part of a line
        tracked.log({"loss/pixel": 0.25}, 32)
        tracked.log({"loss/pixel": 0.125}, 48)
    assert (tmp_path / "metrics.jsonl").stat().st_size == size + 20
    (warning,) = caplog.messages
    assert "metrics.jsonl cannot be written ([Errno 27] File too large); the training goes on" in warning
    tracked.log({"loss/pixel": 0.0}, 64)
    assert [(r["samples_seen"], r["loss/pixel"]) for r in records(tmp_path)] == [
        (16, 0.5),
        (32, 0.25),
        (48, 0.125),
        (64, 0.0),
    ]
    with full_disk(size):
        tracked.log({"loss/pixel": 1.0}, 80)
        tracked.finish()
    assert "bytes of records are not in" in caplog.messages[-1] and len(records(tmp_path)) == 4


def test_records_are_written_once_also_while_a_checkpoint_syncs_them(tmp_path):
    under_test, over = tracker(tmp_path), threading.Event()

    def sync():
        while not over.is_set():
            under_test.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    for number in range(2000):
        under_test.log({"loss": 1.0}, number)
    over.set()
    thread.join()
    under_test.finish()
    assert [record["samples_seen"] for record in records(tmp_path)] == [*range(2000)]


def test_records_that_waited_are_written_at_the_end(tmp_path, caplog):
    tracked = tracker(tmp_path)
    with full_disk(0):
        tracked.log({"loss/pixel": 0.25}, 32)
    tracked.finish()
    assert [r["samples_seen"] for r in records(tmp_path)] == [32] and len(caplog.messages) == 1


def test_other_ranks_write_nothing(tmp_path):
    tracked = tracker(tmp_path, "offline", is_main=False)
    tracked.log({"loss/pixel": 0.5}, 16)
    tracked.panels("samples", "nowhere.png", [("caption", 0, 8)], 16)
    tracked.finish()
    assert not list(tmp_path.iterdir())


def test_a_training_that_was_stopped_to_go_on_is_marked_as_preempted(tmp_path):
    tracked = tracker(tmp_path, "offline")
    tracked.finish(exit_code=STOPPED)
    (session,) = offline_records(tmp_path)
    kinds = [record.WhichOneof("record_type") for record in session]
    assert "preempting" in kinds and exit_codes(session) == [STOPPED]


def test_what_is_no_number_is_null_in_the_record(tmp_path):
    tracked = tracker(tmp_path)
    tracked.log({"loss/pixel": float("nan"), "val/psnr": float("-inf"), "d/real": 0.5}, 16)
    tracked.finish()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (record["loss/pixel"], record["val/psnr"], record["d/real"]) == (None, None, 0.5)


def test_wandb_holds_the_same_records_offline_and_nothing_of_the_machine(tmp_path, monkeypatch, capfd):
    Image.new("L", (8, 8)).save(tmp_path / "panel.png")
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    tracked = tracker(tmp_path, "offline", run_id="abc12345")
    for step in range(5):
        tracked.log({"loss/pixel": 1 / (step + 1)}, 16 * step)
        tracked.log({"val/psnr": 20.0 + step}, 16 * step)
    tracked.panels("samples", tmp_path / "panel.png", [("coal", 0, 5), ("sandstone", 5, 8)], 64)
    tracked.finish({"best/pretrain/psnr": 24.0})
    (session,) = offline_records(tmp_path)
    rows = history(session)
    assert [name for name in rows[-1] if name.startswith("samples/")]
    assert without_media(rows) == rows_of(tmp_path)
    assert exit_codes(session) == [0]
    last = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in session
        for item in record.summary.update
    }
    assert json.loads(last["best/pretrain/psnr"]) == 24.0
    assert rows[-1]["samples/captions"] == ["coal", "sandstone"]
    heights = []
    for path in tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"):
        with Image.open(path) as image:
            heights.append(image.height)
    assert sorted(heights) == [3, 5]
    loads = {item.key: item.value_json for record in session for item in record.stats.item}
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    assert "network.sent" in loads
    # of this process, not of wandb's, which is a fraction of it
    assert float(loads["proc.memory.rssMB"]) == pytest.approx(resident, rel=0.2)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert f"wandb sync {os.path.relpath(folder)}` sends it" in capfd.readouterr().err
    written = b"".join(
        path.read_bytes()
        for path in tmp_path.glob("wandb/offline-run-*/**/*")
        if path.suffix in (".wandb", ".json", ".txt")
    )
    for private in (sys.executable, sys.argv[0], os.getcwd(), str(REPOSITORY)):
        assert private.encode() not in written
    assert {record.run.host for record in session if record.WhichOneof("record_type") == "run"} == {""}


@pytest.mark.parametrize("name, value", [("WANDB_MODE", "disabled"), ("WANDB_MODE", "dryrun")])
def test_the_mode_of_the_environment_counts_where_the_config_has_none(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    tracker(tmp_path, None).finish()
    assert (tmp_path / "wandb").exists() == (value == "dryrun")
    other = tmp_path / "other"
    other.mkdir()
    tracker(other, "offline").finish()
    assert (other / "wandb").exists()


def test_project_and_run_are_those_of_the_environment_unless_the_config_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "lab-rocks")
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")  # as the agent of a sweep sets it
    found = []
    for number, settings in enumerate(({}, {"run_id": "resumed1"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        tracker(folder, "offline", **settings).finish()
        (session,) = offline_records(folder)
        (run,) = [record.run for record in session if record.WhichOneof("record_type") == "run"]
        found.append((run.project, run.run_id))
    assert found == [("lab-rocks", "fromagent"), ("lab-rocks", "resumed1")]


def test_names_tags_and_groups_are_those_of_the_environment(tmp_path, monkeypatch):
    values = {"ENTITY": "lab", "NAME": "third", "TAGS": "coal,x4", "RUN_GROUP": "seeds", "NOTES": "as before"}
    for name, value in (values | {"JOB_TYPE": "trial"}).items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))  # the run's folder all the same
    tracker(tmp_path, "offline").finish()
    (session,) = offline_records(tmp_path)
    (run,) = [record.run for record in session if record.WhichOneof("record_type") == "run"]
    found = (run.entity, run.display_name, [*run.tags], run.run_group, run.notes, run.job_type)
    assert found == ("lab", "third", ["coal", "x4"], "seeds", "as before", "trial")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "WANDB_MODE=onlin: set it to online, offline or disabled, or give tracking.wandb"),
        ({"also": ["trackio"]}, "tracking.also: trackio is not installed; run `pip install trackio`"),
    ],
)
def test_trackers_that_there_are_not_are_named_before_the_training(
    shards, tmp_path, monkeypatch, settings, message
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    if not settings:
        monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UserError, match=re.escape(message)):
        train(tiny_config(shards, tmp_path, tracking=settings))
    assert not (tmp_path / "tiny").exists()


def test_tensorboard_has_the_same_records_and_the_panels(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)  # of a launcher: the process must not wait for the other rank
    Image.new("RGB", (9, 8), "red").save(tmp_path / "panel.png")
    tracked = tracker(tmp_path, also=["tensorboard"])
    tracked.log({"loss/pixel": 0.5, "val/psnr": float("nan")}, 16)
    tracked.panels("samples", tmp_path / "panel.png", [("coal", 0, 5), ("sandstone", 5, 8)], 16)
    tracked.table("scores/pretrain", COLUMNS, ROWS, 16)
    tracked.log({"loss/pixel": 0.25}, 32)
    tracked.finish()
    events = EventAccumulator(str(tmp_path / "trackers" / "srgan_dist")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/pixel")] == [(16, 0.5), (32, 0.25)]
    assert "val/psnr" not in events.Tags()["scalars"]
    (image,) = events.Images("samples/1")
    assert (image.width, image.height) == (9, 3)


def test_a_server_gets_every_record_and_the_summary(tmp_path, monkeypatch, capfd):
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.address)
        tracked = tracker(tmp_path, "online")
        for step in range(5):
            tracked.log({"loss/pixel": 1 / (step + 1)}, 16 * step)
        tracked.finish({"best/pretrain/psnr": 24.0})
        assert [own_columns(row) for row in stub.rows[tracked.run_id]] == rows_of(tmp_path)
        assert stub.summary["best/pretrain/psnr"] == 24.0
        links = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wandb: http")]
        assert len(links) == 2 and tracked.run_id in links[0]  # at the start and at the end


def test_a_server_that_dies_leaves_the_rest_in_the_local_file(tmp_path, monkeypatch, capfd):
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.address)
        tracked = tracker(tmp_path, "online", finish_timeout=4)
        tracked.log({"loss/pixel": 0.5}, 0)
        assert stub.opened.wait(60)
        stub.die()
        for step in range(1, 200):
            tracked.log({"loss/pixel": 1 / step}, 16 * step)
        tracked.finish()
    assert "the server has not taken everything; `wandb sync` can send it later" in capfd.readouterr().err
    (path,) = tmp_path.glob("wandb/run-*/*.wandb")
    assert history(read_records(path)) == rows_of(tmp_path) and len(records(tmp_path)) == 200


COLUMNS, ROWS = ["rock", "PSNR dB"], [["coal", 20.5], ["<b>$x$", None]]


def test_a_table_is_kept_offline_beside_the_records(tmp_path):
    tracked = tracker(tmp_path, "offline")
    tracked.log({"loss/pixel": 0.5}, 16)
    tracked.table("scores/pretrain", COLUMNS, ROWS, 16)
    tracked.log({"loss/pixel": 0.25}, 32)
    tracked.finish()
    (session,) = offline_records(tmp_path)
    rows = history(session)
    assert without_media(rows) == rows_of(tmp_path)
    assert rows[0]["scores/pretrain/_type"] == "table-file"
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/scores/*.table.json")
    assert json.loads(path.read_text()) == {"columns": COLUMNS, "data": ROWS}


def test_a_server_gets_a_table_and_the_records_around_it(tmp_path, monkeypatch):
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.address)
        tracked = tracker(tmp_path, "online")
        tracked.log({"loss/pixel": 0.5}, 16)
        tracked.table("scores/pretrain", COLUMNS, ROWS, 16)
        tracked.log({"loss/pixel": 0.25}, 32)
        tracked.finish()
        rows = [own_columns(row) for row in stub.rows[tracked.run_id]]
    assert without_media(rows) == rows_of(tmp_path)
    assert rows[0]["scores/pretrain"]["_type"] == "table-file"
