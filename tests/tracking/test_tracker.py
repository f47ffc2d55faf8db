import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from conftest import REPOSITORY, full_disk, tiny_config
from PIL import Image
from wandb_stub import KEY, history, offline_records, own_columns, read_records, serving

from srgan_dist.run import checkpoint
from srgan_dist.run.training_run import TrainingRun
from srgan_dist.tracking.tracker import WAITING_RECORDS, Tracker, TrackingConfig
from srgan_dist.tracking.wandb_worker import STOPPED
from srgan_dist.training import train


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def tracker(
    folder,
    mode="disabled",
    run_id=None,
    is_main=True,
    settings=None,
    seen=None,
    init_timeout=20.0,
    finish_timeout=60.0,
):
    config = TrackingConfig(wandb=mode, init_timeout=init_timeout, finish_timeout=finish_timeout)
    return Tracker(config, folder, "tiny", settings or {"seed": 3}, run_id, is_main, seen)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows_of(folder):
    """Return metrics.jsonl as wandb's rows: all that is recorded at one position in one, without the time."""
    rows = {}
    for record in records(folder):
        rows.setdefault(record["samples_seen"], {}).update(
            {name: value for name, value in record.items() if name != "time"}
        )
    return list(rows.values())


def exit_codes(session):
    return [record.exit.exit_code for record in session if record.WhichOneof("record_type") == "exit"]


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
    tracked.panels("samples", {"caption": "nowhere.png"}, 16)
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


def test_wandb_holds_the_same_records_offline_and_nothing_of_the_machine(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "panel.png")
    tracked = tracker(tmp_path, "offline", run_id="abc12345")
    for step in range(5):
        tracked.log({"loss/pixel": 1 / (step + 1)}, 16 * step)
        tracked.log({"val/psnr": 20.0 + step}, 16 * step)
    tracked.panels("samples", {"LR | SR": tmp_path / "panel.png"}, 64)
    tracked.finish({"best/pretrain/psnr": 24.0})
    (session,) = offline_records(tmp_path)
    rows = history(session)
    assert [name for name in rows[-1] if name.startswith("samples/")]
    assert [
        {name: value for name, value in row.items() if not name.startswith("samples/")} for row in rows
    ] == rows_of(tmp_path)
    assert exit_codes(session) == [0]
    last = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in session
        for item in record.summary.update
    }
    assert json.loads(last["best/pretrain/psnr"]) == 24.0
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 1
    written = b"".join(
        path.read_bytes()
        for path in tmp_path.glob("wandb/offline-run-*/**/*")
        if path.suffix in (".wandb", ".json", ".txt")
    )
    for private in (sys.executable, sys.argv[0], os.getcwd(), str(REPOSITORY)):
        assert private.encode() not in written
    assert {record.run.host for record in session if record.WhichOneof("record_type") == "run"} == {""}


def test_a_server_gets_every_record_and_the_summary(tmp_path, monkeypatch):
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.address)
        tracked = tracker(tmp_path, "online")
        for step in range(5):
            tracked.log({"loss/pixel": 1 / (step + 1)}, 16 * step)
        tracked.finish({"best/pretrain/psnr": 24.0})
        assert [own_columns(row) for row in stub.rows[tracked.run_id]] == rows_of(tmp_path)
        assert stub.summary["best/pretrain/psnr"] == 24.0


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


# Whatever wandb does, the training is the same


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
    "never comes back from start": (
        "def init(**_): hang()",
        "did not end within tracking.finish_timeout=2 seconds",
    ),
    "never comes back from log": (
        "def log(numbers, step): hang()",
        "did not end within tracking.finish_timeout=2 seconds",
    ),
    "never comes back from finish": (
        "def finish(code): hang()",
        "did not end within tracking.finish_timeout=2 seconds",
    ),
    "dies": ("def log(numbers, step): os.kill(os.getpid(), 9)", "(its process ended with -9)"),
}
FAKE = textwrap.dedent("""
    import os, sys, time
    def hang():
        time.sleep(10_000)
    def Settings(**_):
        sys.modules[__name__].settings = sys.modules[__name__]
    finish_timeout = 1
    def init(**_):
        return sys.modules[__name__]
    def define_metric(*_, **__):
        pass
    def log(numbers, step):
        pass
    def Image(*_, **__):
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        folder = tmp_path_factory.mktemp("untracked")
        trained = train(tiny_config(shards, folder, adversarial=None, num_sample_images=1))
    return trained.generator.state_dict(), numbers_of(folder / "tiny")


def numbers_of(run):
    """Return the records of a run without what depends on the clock and the machine."""
    return [
        {name: value for name, value in record.items() if name != "time" and not name.startswith("speed/")}
        for record in records(run)
    ]


def same_training(shards, folder, untracked, **tracking):
    """Train with a tracker and compare with the training without."""
    generator, numbers = untracked
    trained = train(tiny_config(shards, folder, adversarial=None, num_sample_images=1, tracking=tracking))
    assert numbers_of(folder / "tiny") == numbers
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
    rows = [
        {name: value for name, value in row.items() if not name.startswith("samples/")}
        for row in history(session)
    ]
    assert rows == rows_of(tmp_path / "tiny") and exit_codes(session) == [0]
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
    same_training(shards, tmp_path, untracked, wandb="offline", finish_timeout=2.0)
    assert words in capfd.readouterr().err + caplog.text


def test_records_that_a_slow_wandb_leaves_waiting_are_bounded_and_told(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path / "fake", monkeypatch, "def init(**_): hang()")
    tracked = tracker(tmp_path, "offline", finish_timeout=0.5)
    wide = {f"loss/{number}": 0.123456789 for number in range(100)}  # fills the pipe soon
    for step in range(WAITING_RECORDS + 500):
        tracked.log(wide, step)
    tracked.finish()
    assert len(records(tmp_path)) == WAITING_RECORDS + 500
    (left_out,) = [int(record.args[0]) for record in caplog.records if "wandb was too slow" in record.msg]
    assert 400 <= left_out <= 500


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
    run, save = tmp_path / "tiny", TrainingRun.save

    def save_or_die(self, *arguments, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        save(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    sent_before = rows_of(run)
    train(config)
    sessions = [history(session) for session in offline_records(run)]
    ids = [
        record.run.run_id
        for session in offline_records(run)
        for record in session
        if record.WhichOneof("record_type") == "run"
    ]
    assert len(ids) == 2 and len(set(ids)) == 1
    seen = [row["samples_seen"] for session in sessions for row in session]
    assert seen == sorted(set(seen)) == [8, 16, 24]
    assert sessions == [sent_before, [row for row in rows_of(run) if row["samples_seen"] > 16]]
    with serving() as stub:  # wandb sync sends both as that one curve
        command = [
            sys.executable,
            "-m",
            "wandb",
            "sync",
            "--yes",
            *map(str, sorted(run.glob("wandb/offline-run-*"))),
        ]
        subprocess.run(
            command,
            env={**os.environ, "WANDB_BASE_URL": stub.address},
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert [own_columns(row) for row in stub.rows[ids[0]]] == sessions[0] + sessions[1]


KILLED = """
import sys, time
from pathlib import Path
from srgan_dist.run import checkpoint
from srgan_dist.tracking.tracker import Tracker, TrackingConfig
tracked = Tracker(TrackingConfig(wandb="offline"), sys.argv[1], "tiny", {}, "abc", True)
for step in range(50):
    tracked.log({"loss/pixel": 0.5}, step)
while tracked.wandb.waiting.qsize():
    time.sleep(0.01)
print("logged", flush=True)
time.sleep(1000)
"""


def test_a_killed_training_is_marked_as_failed_with_all_it_has_logged(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"logged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while not (sessions := offline_records(tmp_path)) or not exit_codes(sessions[0]):
        assert time.monotonic() < deadline, "the process that talks to wandb has not closed the record"
        time.sleep(0.1)
    assert exit_codes(sessions[0]) == [1] and len(history(sessions[0])) == 50
