"""A training that is asked to stop: it saves, ends with exit code 85, and continues to the same end."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from commands import (
    ACCELERATE,
    RANKS,
    TORCHRUN,
    TRAIN,
    WORKER,
    finished,
    long_config,
    processes_of,
    reports,
    run,
    start,
    start_ranks,
    under_way,
    wait_until,
    write_config,
)
from conftest import tiny_config
from distributed_worker import digest, sending
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SubprocessContext
from wandb_stub import offline_records

from srgan_dist.evaluation.validation import Validator
from srgan_dist.phases.adversarial import AdversarialPhase
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.run import checkpoint_writer, training_run
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.runtime.elastic_agent import Agent, Ranks
from srgan_dist.runtime.parent_death import FROM_LAUNCHER
from srgan_dist.training import train
from srgan_dist.utils.errors import TrainingStopped

TWO_RANKS = ("--standalone", "--nproc_per_node=2")


def config_of(shards, output, **changes):
    return tiny_config(shards, output, **{"validate_every": 5, "checkpoint_every": 100} | changes)


def digests(trained):
    return digest(trained.generator), digest(trained.discriminator)


def records(config, name):
    path = Path(config.output) / config.name / "metrics.jsonl"
    return [record for record in map(json.loads, path.read_text().splitlines()) if name in record]


def saved_updates(run_directory):
    return newest_checkpoint(run_directory / "checkpoints")[1]["global_step"]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """The digests and the validations of a run without a signal."""
    config = config_of(shards, tmp_path_factory.mktemp("undisturbed"))
    trained = train(config)
    return digests(trained), [(r["samples_seen"], r["val/psnr"]) for r in records(config, "val/psnr")]


# One process


@pytest.mark.parametrize(
    "owner, name, at, number, updates",
    [
        (PretrainPhase, "update", 1, signal.SIGTERM, 1),
        (PretrainPhase, "update", 3, signal.SIGUSR1, 3),
        (PretrainPhase, "update", 4, FROM_LAUNCHER, 4),
        (PretrainPhase, "update", 6, signal.SIGINT, 6),  # the last of phase 1: validated by the next start
        (AdversarialPhase, "update", 3, signal.SIGTERM, 9),
        (Validator, "validate", 1, signal.SIGTERM, 5),  # after update 5
        (Validator, "validate", 2, signal.SIGINT, 6),  # at the end of phase 1
        (training_run, "save_generator", 1, signal.SIGUSR1, 5),  # the best weights of phase 1
        (checkpoint_writer, "save_checkpoint", 1, signal.SIGTERM, 6),
    ],
)
def test_a_stopped_training_has_saved_and_continues_to_the_same_end(
    shards, tmp_path, monkeypatch, undisturbed, owner, name, at, number, updates
):
    config = config_of(shards, tmp_path)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, sending(getattr(owner, name), number, at))
        with pytest.raises(TrainingStopped):
            train(config)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert saved_updates(tmp_path / "tiny") == updates
    assert records(config, "loss/pixel")[-1]["samples_seen"] == 4 * updates
    assert digests(train(config)) == undisturbed[0]
    assert [(r["samples_seen"], r["val/psnr"]) for r in records(config, "val/psnr")] == undisturbed[1]


def test_a_signal_in_the_last_validation_lets_the_training_end(shards, tmp_path, monkeypatch, undisturbed):
    config, validate = config_of(shards, tmp_path), Validator.validate
    monkeypatch.setattr(Validator, "validate", sending(validate, signal.SIGTERM, 3))
    assert digests(train(config)) == undisturbed[0]


# The command


def test_ctrl_c_in_a_terminal_closes_the_record_of_wandb_too(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path, tracking={"wandb": "offline"}))
    process = start(*TRAIN, config)
    under_way(tmp_path / "tiny", process)
    wait_until(lambda: list((tmp_path / "tiny" / "wandb").glob("offline-run-*")), process)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGUSR1)  # a scheduler may send it to all processes
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes
    done = finished(process)
    assert done.returncode == 85 and "Traceback" not in done.stderr, done.stderr
    assert f"stopped by SIGINT after update {saved_updates(tmp_path / 'tiny')}, which is saved" in done.stdout
    (session,) = offline_records(tmp_path / "tiny")
    kinds = [record.WhichOneof("record_type") for record in session]
    assert "preempting" in kinds
    assert [record.exit.exit_code for record, kind in zip(session, kinds) if kind == "exit"] == [85]
    assert not processes_of(config)


LAUNCHERS = {  # with the exit code of each
    "torchrun": ([*TORCHRUN, *TWO_RANKS], signal.SIGTERM, 1),
    "torchrun, which dies of it": ([*TORCHRUN, *TWO_RANKS], signal.SIGUSR1, -signal.SIGUSR1),
    "ranks.py": ([*RANKS, *TWO_RANKS], signal.SIGUSR1, 85),
    "accelerate launch, which dies of it": (
        [*ACCELERATE, "--cpu", "--num_processes=1"],
        signal.SIGTERM,
        -signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_is_sent_a_signal_leaves_a_saved_run_and_no_process(shards, tmp_path, name):
    launcher, number, code = LAUNCHERS[name]
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(*launcher, "launch/train.py", config)
    under_way(tmp_path / "tiny", process)
    ranks = processes_of(config)
    process.send_signal(number)
    done = finished(process)  # the pipes are open until the last rank has ended
    assert done.returncode == code, done.stderr
    assert not processes_of(config) and len(ranks) > 1
    updates = saved_updates(tmp_path / "tiny")
    assert f"after update {updates}, which is saved" in done.stdout
    last = (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["samples_seen"] == 4 * updates


def test_a_rank_that_is_stopped_by_hand_stops_all_in_spite_of_restarts(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(*RANKS, *TWO_RANKS, "--max-restarts=2", "launch/train.py", config)
    under_way(tmp_path / "tiny", process)
    last_rank = [number for number in processes_of(config) if number != process.pid][-1]
    os.kill(last_rank, signal.SIGTERM)
    done = finished(process)
    assert done.returncode == 85 and f"continues from {tmp_path}" not in done.stdout, done.stderr
    assert (
        f"stopped by SIGTERM after update {saved_updates(tmp_path / 'tiny')}, which is saved" in done.stdout
    )


# A second signal

NOTES_SIGNALS = """
import os, signal, sys, time
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(f"{signal.Signals(number).name} ")
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, note)
note(signal.SIGALRM, None)
while open(sys.argv[1]).read().split()[-1] != sys.argv[2] or len(open(sys.argv[1]).read().split()) < 3:
    time.sleep(0.05)
os._exit(7)
"""


@pytest.mark.parametrize(
    "first, second",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGUSR1, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGUSR1),
    ],
)
def test_a_second_signal_to_the_launcher_reaches_ranks_that_have_not_ended_by_the_first(
    tmp_path, first, second
):
    (tmp_path / "rank.py").write_text(NOTES_SIGNALS)
    noted = tmp_path / "noted"
    process = start(*RANKS, "--standalone", "--nproc_per_node=1", tmp_path / "rank.py", noted, second.name)

    def has_noted(count):
        return noted.exists() and len(noted.read_text().split()) == count

    for count, number in enumerate((first, second), 1):
        wait_until(lambda count=count: has_noted(count), process)
        process.send_signal(number)
    assert finished(process).returncode == 128 + second
    assert noted.read_text().split() == ["SIGALRM", first.name, second.name]


def test_a_signal_while_ranks_are_started_is_handled_when_they_are_known(monkeypatch):
    """It ended the launcher without them, on a busy machine."""
    events = []

    def start(context):
        signal.raise_signal(signal.SIGTERM)
        events.append("started")

    def start_workers(agent, group):
        signal.signal(signal.SIGTERM, lambda number, frame: events.append(number))  # as PContext.start does
        Ranks.__new__(Ranks)._start()
        events.append("known")
        return group

    monkeypatch.setattr(SubprocessContext, "_start", start)
    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start_workers)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert Agent._start_workers(Agent.__new__(Agent), "ranks") == "ranks"
        signal.raise_signal(signal.SIGTERM)
        assert events == ["started", "known", signal.SIGTERM, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "minutes, second, code, words",
    [
        (30, True, 128 + signal.SIGTERM, "a second SIGTERM or Ctrl-C ends it at once"),
        (0.1, False, 1, "Timed out waiting 6000ms"),
    ],
)
def test_a_rank_that_waits_for_a_hung_one_ends_at_the_second_signal_or_after_its_timeout(
    shards, tmp_path, minutes, second, code, words
):
    config = write_config(tmp_path, long_config(shards, tmp_path, group_timeout_minutes=minutes))
    waiting, hung = start_ranks("launch/train.py", config)
    try:
        under_way(tmp_path / "tiny", waiting)
        hung.send_signal(signal.SIGSTOP)
        if second:
            waiting.send_signal(signal.SIGTERM)
            with pytest.raises(AssertionError, match="nothing happened"):  # within two seconds they are one
                wait_until(lambda: False, waiting, seconds=3)
            waiting.send_signal(signal.SIGTERM)
        done = finished(waiting)
        assert done.returncode == code and words in done.stderr, done.stderr
    finally:
        for rank in (waiting, hung):
            rank.kill()
            rank.communicate()


# Two ranks


def train_two_ranks(task, config, out, *options):
    """Run a task of distributed_worker.py under launch/ranks.py; returns the command and the reports."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done = run(*RANKS, *TWO_RANKS, *options, WORKER, task, config, out)
    return done, reports(out)


def test_a_signal_to_the_launcher_in_the_last_validation_lets_the_training_end(shards, tmp_path):
    config = write_config(tmp_path, config_of(shards, tmp_path))
    done, (zero, one) = train_two_ranks("late", config, tmp_path / "out")
    assert "SIGUSR1: the training saves" in done.stderr, done.stderr
    assert done.returncode == 0 and "adversarial is finished" in done.stdout and zero == one


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_and_then_stopped_end_as_undisturbed_ones(shards, tmp_path):
    changes = {"checkpoint_every": 3, "tracking": {"wandb": "offline"}, "log_every": 1}
    quiet = write_config(tmp_path, config_of(shards, tmp_path / "quiet", **changes))
    done, expected = train_two_ranks("train", quiet, tmp_path / "out")
    assert done.returncode == 0 and expected[0] == expected[1], done.stderr

    config = config_of(shards, tmp_path / "runs", **changes)
    path = write_config(tmp_path, config)
    done, _ = train_two_ranks("disturbed", path, tmp_path / "out", "--max-restarts=1")
    assert done.returncode == 85, done.stderr
    assert "continues from" in done.stdout and "step-00000003" in done.stdout  # the last before update 5
    assert "stopped by SIGTERM after update 8" in done.stdout
    done, found = train_two_ranks("train", path, tmp_path / "out")
    assert done.returncode == 0 and "step-00000008" in done.stdout, done.stderr
    assert found == expected
    seen = [record["samples_seen"] for record in records(config, "loss/pixel")]
    assert seen == [4 * update for update in range(1, 11)]
    folders = [folder.name for folder in (tmp_path / "runs" / "tiny" / "wandb").glob("offline-run-*")]
    assert len(folders) == 3 and len({name.rpartition("-")[2] for name in folders}) == 1  # parts of one run
