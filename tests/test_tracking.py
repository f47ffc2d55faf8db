import json
import logging
import os
import struct
import sys
import time
import zlib

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from conftest import REPOSITORY, full_disk
from srgan_dist.tracking import Tracker, TrackingConfig


def tracker(folder, mode="disabled", run_id=None, is_main=True, settings=None):
    return Tracker(TrackingConfig(wandb=mode), folder, "tiny", settings or {"seed": 3}, run_id, is_main)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def offline_records(folder):
    """Read wandb's offline file: LevelDB log blocks of protobuf records, each with its crc."""
    path, = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = path.read_bytes(), 7, b""
    found = []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        crc, size, kind = struct.unpack("<IHB", data[position : position + 7])
        body = data[position + 7 : position + 7 + size]
        assert zlib.crc32(body, zlib.crc32(bytes([kind]))) == crc
        position += 7 + size
        part = body if kind in (1, 2) else part + body
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
    return found


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
    warning, = caplog.messages
    assert "metrics.jsonl cannot be written ([Errno 27] File too large); the training goes on" in warning
    tracked.log({"loss/pixel": 0.0}, 64)
    assert [(r["samples_seen"], r["loss/pixel"]) for r in records(tmp_path)] == [(16, 0.5), (32, 0.25), (48, 0.125), (64, 0.0)]
    with full_disk(size):
        tracked.log({"loss/pixel": 1.0}, 80)
        tracked.finish()
    assert "bytes of records are not in" in caplog.messages[-1] and len(records(tmp_path)) == 4


def test_records_that_waited_are_written_at_the_end(tmp_path, caplog):
    tracked = tracker(tmp_path)
    with full_disk(0):
        tracked.log({"loss/pixel": 0.25}, 32)
    tracked.finish()
    assert [r["samples_seen"] for r in records(tmp_path)] == [32] and len(caplog.messages) == 1


def test_other_ranks_write_nothing(tmp_path):
    tracked = tracker(tmp_path, is_main=False)
    tracked.log({"loss/pixel": 0.5}, 16)
    tracked.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_wandb_holds_the_same_records_offline_and_nothing_of_the_machine(tmp_path):
    tracked = tracker(tmp_path, "offline", run_id="abc12345")
    assert tracked.run is not None and tracked.run_id == "abc12345"
    for step in range(5):
        tracked.log({"loss/pixel": 1 / (step + 1), "val/psnr": 20.0 + step}, 16 * step)
    tracked.finish({"best/pretrain/psnr": 24.0})
    time.sleep(1)  # its last block may reach the disk after finish returns
    found = offline_records(tmp_path)
    history = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history.append({key: row[key] for key in ("samples_seen", "loss/pixel", "val/psnr")})
    assert history == [{k: v for k, v in r.items() if k != "time"} for r in records(tmp_path)]
    written = b"".join(path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/**/*") if path.suffix in (".wandb", ".json", ".txt"))
    for private in (sys.executable, sys.argv[0], os.getcwd(), str(REPOSITORY)):
        assert private.encode() not in written


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_wandb_cannot_be_reached_it_records_offline(tmp_path, monkeypatch, caplog):
    real = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **kwargs: real(**kwargs) if kwargs["mode"] == "offline" else 1 / 0)
    with caplog.at_level(logging.WARNING):
        tracked = tracker(tmp_path, "online")
        tracked.log({"loss/pixel": 0.5}, 16)
        tracked.finish(exit_code=1)
    assert "records offline; `wandb sync` can send it later (ZeroDivisionError" in caplog.text
    time.sleep(1)
    assert [r.exit.exit_code for r in offline_records(tmp_path) if r.WhichOneof("record_type") == "exit"] == [1]


def test_a_failing_wandb_is_switched_off_and_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("no server")))
    with caplog.at_level(logging.WARNING):
        tracked = tracker(tmp_path, "online")
        tracked.log({"loss/pixel": 0.5}, 16)
        tracked.panels("samples", {"caption": "nowhere.png"}, 16)
        tracked.finish({"a": 1.0})
    assert caplog.text.count("wandb failed and is switched off") == 1 and "no server" in caplog.text
    assert len(records(tmp_path)) == 1


def test_wandb_failing_in_the_middle_does_not_stop_the_record(tmp_path, monkeypatch):
    class Run:
        id = "x"
        calls = 0

        def define_metric(self, *_, **__):
            pass

        def log(self, _):
            self.calls += 1
            if self.calls > 1:
                raise OSError("gone")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    tracked = tracker(tmp_path, "offline")
    for step in range(4):
        tracked.log({"loss/pixel": 0.5}, step)
    tracked.finish()
    assert len(records(tmp_path)) == 4
