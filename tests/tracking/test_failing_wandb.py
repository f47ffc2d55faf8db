"""Whatever wandb or its server does, the training and its records are the same."""

import socket
import sys
import textwrap
import time

import pytest
import torch
from commands import run_fresh, start
from conftest import tiny_config
from trackers import exit_codes, records, rows_of, tracker, without_media
from wandb_stub import history, offline_records, own_columns, serving

from srgan_dist.run.training_run import TrainingRun
from srgan_dist.tracking.tracker import WAITING_RECORDS
from srgan_dist.training import train

pytestmark = pytest.mark.usefixtures("wandb_environment")


def silent_server():
    """A socket that takes connections and never answers."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=50)
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


def refusing_server():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return None, f"http://127.0.0.1:{closed.getsockname()[1]}"


FAKES = {  # modules in the place of wandb, and the words that follow
    "raises at once": (
        "raise ImportError('broken')",
        "wandb failed; metrics.jsonl has what it lacks (ImportError: broken)",
    ),
    "raises at start": ("def init(**_): raise OSError('no room')", "(OSError: no room)"),
    "raises in log": ("def log(numbers, step): raise ValueError('odd')", "(ValueError: odd)"),
    "has no table": (
        "def Table(**_): raise ValueError('odd')",
        "wandb has no table scores/pretrain (ValueError: odd)",
    ),
    "never comes back from start": (
        "def init(**_): hang()",
        "did not end within tracking.finish_timeout=0.5 seconds",
    ),
    "never comes back from log": (
        "def log(numbers, step): hang()",
        "did not end within tracking.finish_timeout=0.5 seconds",
    ),
    "never comes back from finish": (
        "def finish(code): hang()",
        "did not end within tracking.finish_timeout=0.5 seconds",
    ),
    "dies": ("def log(numbers, step): os.kill(os.getpid(), 9)", "(its process ended with -9)"),
}
FAKE = textwrap.dedent("""
    import os, sys, time
    def hang():
        time.sleep(10_000)
    def Settings(**_):
        sys.modules[__name__].settings = sys.modules[__name__]
    finish_timeout, url, sync_dir = 1, None, "wandb"
    def init(**_):
        return sys.modules[__name__]
    def define_metric(*_, **__):
        pass
    def log(numbers, step):
        pass
    def Image(*_, **__):
        pass
    def Table(*_, **__):
        pass
    summary = {}
    def finish(code):
        pass
""")


def fake_wandb(folder, monkeypatch, code=""):
    folder.mkdir()
    (folder / "wandb.py").write_text(f"{FAKE}\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture(scope="module")
def untracked(shards, tmp_path_factory):
    """The generator and the records of a training without wandb."""
    folder = tmp_path_factory.mktemp("untracked")
    trained = train(tiny_config(shards, folder, adversarial=None, device="cpu"))
    return trained.generator.state_dict(), metrics_of(folder / "tiny")


def metrics_of(run):
    """Return the records of a run without times and speeds."""
    return [
        {name: value for name, value in record.items() if name != "time" and not name.startswith("speed/")}
        for record in records(run)
    ]


def same_training(shards, folder, untracked, **tracking):
    """Train with a tracker and compare with the training without."""
    generator, metrics = untracked
    trained = train(tiny_config(shards, folder, adversarial=None, tracking=tracking))
    assert metrics_of(folder / "tiny") == metrics
    assert all(torch.equal(value, generator[name]) for name, value in trained.generator.state_dict().items())


@pytest.mark.parametrize("server", [silent_server, refusing_server])
def test_a_training_without_an_answer_of_the_server_is_the_same_and_recorded_offline(
    shards, tmp_path, untracked, monkeypatch, capfd, server
):
    listening, address = server()
    monkeypatch.setenv("WANDB_BASE_URL", address)
    same_training(shards, tmp_path, untracked, wandb="online", init_timeout=1.0, finish_timeout=60.0)
    if listening:
        listening.close()
    assert (
        "wandb cannot be reached, so it records offline; `wandb sync` can send it later (CommError"
        in capfd.readouterr().err
    )
    (session,) = offline_records(tmp_path / "tiny")
    rows = history(session)
    assert rows[-1]["scores/pretrain/ncols"] == 13 and rows[-1]["scores/pretrain/nrows"] == 8
    assert rows[-1]["measures/pretrain/ncols"] == 17
    assert without_media(rows) == rows_of(tmp_path / "tiny") and exit_codes(session) == [0]
    summary = {item.key or "/".join(item.nested_key) for record in session for item in record.summary.update}
    assert summary >= {
        "best/pretrain/psnr",
        "speed/pretrain/samples_per_second",
        "speed/pretrain/step_ms_p99",
        "speed/pretrain/memory_mib",
    }


@pytest.mark.parametrize("fault", FAKES)
def test_a_training_beside_a_failing_wandb_is_the_same(
    shards, tmp_path, untracked, monkeypatch, capfd, caplog, fault
):
    code, words = FAKES[fault]
    fake_wandb(tmp_path / "fake", monkeypatch, code)
    finish_timeout = 0.5 if "hang()" in code else 20.0
    same_training(shards, tmp_path, untracked, wandb="offline", finish_timeout=finish_timeout)
    assert words in capfd.readouterr().err + caplog.text


def test_records_that_a_slow_wandb_leaves_waiting_are_bounded_and_told(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path / "fake", monkeypatch, "def init(**_): hang()")
    tracked = tracker(tmp_path, "offline", finish_timeout=0.5)
    wide = {f"loss/{number}": 0.123456789 for number in range(100)}  # fills the pipe soon
    for step in range(WAITING_RECORDS + 500):
        tracked.log(wide, step)
    tracked.finish()
    assert len(records(tmp_path)) == WAITING_RECORDS + 500
    (left_out,) = [record.args[1] for record in caplog.records if "was too slow" in record.msg]
    assert "wandb was too slow" in caplog.text
    assert 400 <= left_out <= 501  # the settings of the run may wait too


def test_a_wandb_that_cannot_be_started_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no_python"))
    tracked = tracker(tmp_path, "offline")
    tracked.log({"loss/pixel": 0.5}, 16)
    tracked.finish()
    assert "wandb cannot be started; metrics.jsonl goes on" in caplog.text and len(records(tmp_path)) == 1


# Interruptions


def test_a_resumed_run_is_one_curve_without_repetitions(shards, tmp_path, monkeypatch):
    config = tiny_config(
        shards,
        tmp_path,
        adversarial=None,
        checkpoint_every=2,
        num_sample_images=0,
        tracking={"wandb": "offline"},
    )
    run_directory, save = tmp_path / "tiny", TrainingRun.save

    def save_or_die(self, *arguments, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        save(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    sent_before = rows_of(run_directory)
    train(config)
    sessions = [without_media(history(session)) for session in offline_records(run_directory)]
    ids = [
        record.run.run_id
        for session in offline_records(run_directory)
        for record in session
        if record.WhichOneof("record_type") == "run"
    ]
    assert len(ids) == 2 and len(set(ids)) == 1
    seen = [row["samples_seen"] for session in sessions for row in session]
    assert seen == sorted(set(seen)) == [8, 16, 24]
    assert sessions == [sent_before, [row for row in rows_of(run_directory) if row["samples_seen"] > 16]]
    with serving() as stub:  # wandb sync sends both as that one curve
        sessions_of_wandb = sorted(run_directory.glob("wandb/offline-run-*"))
        done = run_fresh(
            *(sys.executable, "-m", "wandb", "sync", "--yes", *sessions_of_wandb), WANDB_BASE_URL=stub.address
        )
        assert done.returncode == 0, done.stderr
        assert [own_columns(row) for row in without_media(stub.rows[ids[0]])] == sessions[0] + sessions[1]


KILLED = """
import sys, time
from pathlib import Path
from srgan_dist.run import checkpoint
from srgan_dist.tracking.tracker import Tracker, TrackingConfig
tracked = Tracker(TrackingConfig(wandb="offline"), sys.argv[1], "tiny", {}, "abc", True)
for step in range(50):
    tracked.log({"loss/pixel": 0.5}, step)
while tracked.workers[0].waiting.qsize():
    time.sleep(0.01)
print("logged", flush=True)
time.sleep(1000)
"""


def test_a_killed_training_is_marked_as_failed_with_all_it_has_logged(tmp_path):
    process = start(sys.executable, "-c", KILLED, tmp_path)
    assert process.stdout.readline() == "logged\n"
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while not (sessions := offline_records(tmp_path)) or not exit_codes(sessions[0]):
        assert time.monotonic() < deadline, "wandb's worker has not closed the record"
        time.sleep(0.1)
    assert exit_codes(sessions[0]) == [1] and len(history(sessions[0])) == 50
