"""A training that is asked to stop, and one that is stopped without being asked: both go on as if nothing had been."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import RANKS, free_port, long_config, processes_of, start, under_way, wait_until, write_config
from conftest import REPOSITORY, tiny_config
from distributed_worker import digest, sending
from test_tracker import offline_records

from srgan_dist import training
from srgan_dist.phases.adversarial import AdversarialPhase
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.run import checkpoint_writer
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.runtime.parent_death import FROM_LAUNCHER
from srgan_dist.training import train
from srgan_dist.utils.errors import TrainingStopped

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WORKER = REPOSITORY / "tests" / "distributed_worker.py"


def config_of(shards, output, **changes):
    return tiny_config(shards, output, **{"validate_every": 5, "checkpoint_every": 100} | changes)


def digests(trained):
    return digest(trained.generator), digest(trained.discriminator)


def records(config, name):
    path = Path(config.output) / config.name / "metrics.jsonl"
    return [record for record in map(json.loads, path.read_text().splitlines()) if name in record]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """The digests and the validations of a run that nothing stops; it leaves the process group of pytest alone."""
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
        (
            PretrainPhase,
            "update",
            6,
            signal.SIGINT,
            6,
        ),  # the last of phase 1: its validation comes with the next start
        (AdversarialPhase, "update", 3, signal.SIGTERM, 9),
        (training.Validator, "validate", 1, signal.SIGTERM, 5),  # after update 5
        (training.Validator, "validate", 2, signal.SIGINT, 6),  # at the end of phase 1
        (training, "save_generator", 1, signal.SIGUSR1, 5),  # the best weights so far
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
    _, state = newest_checkpoint(tmp_path / "tiny" / "checkpoints")
    assert state["global_step"] == updates
    assert records(config, "loss/pixel")[-1]["samples_seen"] == 4 * updates
    assert digests(train(config)) == undisturbed[0]
    assert [(r["samples_seen"], r["val/psnr"]) for r in records(config, "val/psnr")] == undisturbed[1]


def test_a_signal_in_the_last_validation_lets_the_training_end(shards, tmp_path, monkeypatch, undisturbed):
    config = config_of(shards, tmp_path)
    monkeypatch.setattr(
        training.Validator, "validate", sending(training.Validator.validate, signal.SIGTERM, 3)
    )
    assert digests(train(config)) == undisturbed[0]


# The command


def test_ctrl_c_in_a_terminal_closes_the_record_of_wandb_too(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path, tracking={"wandb": "offline"}))
    process = start(sys.executable, "launch/train.py", config)
    under_way(tmp_path / "tiny", process)
    wait_until(lambda: list((tmp_path / "tiny" / "wandb").glob("offline-run-*")), process)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGUSR1)  # a scheduler may send it to all processes
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 85 and "Traceback" not in errors, errors
    path, state = newest_checkpoint(tmp_path / "tiny" / "checkpoints")
    assert f"stopped by SIGINT after update {state['global_step']}, which is saved" in output
    (last,) = offline_records(tmp_path / "tiny")
    kinds = [record.WhichOneof("record_type") for record in last]
    assert "preempting" in kinds
    assert [record.exit.exit_code for record in last if record.WhichOneof("record_type") == "exit"] == [85]
    assert not processes_of(config)


LAUNCHERS = {  # with the exit code of each
    "torchrun": ([*TORCHRUN, "--standalone", "--nproc_per_node=2"], signal.SIGTERM, 1),
    "torchrun, which dies of it": (
        [*TORCHRUN, "--standalone", "--nproc_per_node=2"],
        signal.SIGUSR1,
        -signal.SIGUSR1,
    ),
    "ranks.py": ([*RANKS, "--standalone", "--nproc_per_node=2"], signal.SIGUSR1, 85),
    "accelerate launch, which dies of it": (
        [Path(sys.executable).with_name("accelerate"), "launch", "--cpu", "--num_processes=1"],
        signal.SIGTERM,
        -signal.SIGTERM,
    ),
}


@pytest.mark.parametrize(
    "name", [name if name == "ranks.py" else pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS]
)
def test_a_launcher_that_is_sent_a_signal_leaves_a_saved_run_and_no_process(shards, tmp_path, name):
    launcher, number, code = LAUNCHERS[name]
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(*launcher, "launch/train.py", config)
    under_way(tmp_path / "tiny", process)
    ranks = processes_of(config)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)  # the pipes are open until the last rank has ended
    assert process.returncode == code, errors
    assert not processes_of(config) and len(ranks) > 1
    updates = newest_checkpoint(tmp_path / "tiny" / "checkpoints")[1]["global_step"]
    assert f"after update {updates}, which is saved" in output
    assert [
        json.loads(line)["samples_seen"]
        for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()
    ][-1] == 4 * updates


def ranks_of(launcher, config):
    return [number for number in processes_of(config) if number != launcher.pid]


@pytest.mark.parametrize("importing", [False, True], ids=["before Python", "while it imports"])
def test_a_launcher_that_is_killed_while_its_rank_starts_leaves_no_process(shards, tmp_path, importing):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    delay = [] if importing else ["bash", "-c", 'sleep 1; exec "$@"', "bash"]
    process = start(
        *RANKS,
        "--standalone",
        "--nproc_per_node=1",
        "--no-python",
        *delay,
        sys.executable,
        "launch/train.py",
        config,
    )
    rank = wait_until(lambda: ranks_of(process, config), process)[0]
    if importing:  # PyTorch
        wait_until(lambda: b"_ctypes" in Path(f"/proc/{rank}/maps").read_bytes(), process)
        time.sleep(0.3)
    process.kill()
    try:
        process.communicate(timeout=60)  # the pipes are open until the rank has ended
    finally:
        for number in processes_of(config):
            os.kill(number, signal.SIGKILL)
    assert not list((tmp_path / "tiny").glob("weights/*.safetensors"))


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
    for number, words in ((first, 1), (second, 2)):
        wait_until(lambda: noted.exists() and len(noted.read_text().split()) == words, process)
        process.send_signal(number)
    process.communicate(timeout=60)
    assert noted.read_text().split() == ["SIGALRM", first.name, second.name]
    assert process.returncode == 128 + second


def test_a_rank_that_is_stopped_by_hand_stops_all_in_spite_of_restarts(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(
        *RANKS, "--standalone", "--nproc_per_node=2", "--max-restarts=2", "launch/train.py", config
    )
    under_way(tmp_path / "tiny", process)
    os.kill(ranks_of(process, config)[-1], signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 85 and f"continues from {tmp_path}" not in output, errors
    updates = newest_checkpoint(tmp_path / "tiny" / "checkpoints")[1]["global_step"]
    assert f"stopped by SIGTERM after update {updates}, which is saved" in output


def two_launchers(config, *options):
    """Start launch/ranks.py for the first and for the second of two nodes, both on this machine, one rank each."""
    command = [
        *RANKS,
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        "--rdzv_id=7",
        f"--rdzv_endpoint=localhost:{free_port()}",
        *options,
    ]
    return [
        lambda host=host: start(
            *command, f"--rdzv_conf=is_host={host},join_timeout=100", "launch/train.py", config
        )
        for host in ("true", "false")
    ]


def goes_on(run, process):
    """Wait until a training has reported more than now."""
    metrics = run / "metrics.jsonl"
    lines = len(metrics.read_text().splitlines())
    wait_until(lambda: len(metrics.read_text().splitlines()) > lines + 5, process)


def test_a_node_that_joins_restarts_the_ranks_and_stopping_it_stops_all(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    first, second = two_launchers(config, "--nnodes=1:2", "--max-restarts=3")
    one = first()
    under_way(tmp_path / "tiny", one)
    (alone,) = ranks_of(one, config)
    two = second()
    wait_until(lambda: alone not in processes_of(config), one)
    goes_on(tmp_path / "tiny", two)
    two.send_signal(signal.SIGTERM)
    (output, errors), (_, second_errors) = one.communicate(timeout=60), two.communicate(timeout=60)
    assert one.returncode == 85 and two.returncode == 85, errors + second_errors
    assert (
        "stopped by its launcher, which died or restarts it," in output and "stopped by SIGTERM" in output
    ), output
    assert f"continues from {tmp_path}" in output and "Traceback" not in errors + second_errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed, code, words", [(1, 85, "stopped by its launcher"), (0, 1, "the launchers have lost each other")]
)
def test_a_launcher_that_is_killed_leaves_no_process_and_a_saved_run(shards, tmp_path, killed, code, words):
    slow = {
        "data": {
            "path": str(shards),
            "lr_crop": 8,
            "batch_size": 512,
        },  # seconds per update, in which torchrun sees it first
        "generator": {"name": "srresnet", "num_blocks": 8, "num_filters": 32},
    }
    config = write_config(tmp_path, long_config(shards, tmp_path, **slow))
    both = [launch() for launch in two_launchers(config, "--nnodes=2")]
    under_way(tmp_path / "tiny", both[0])
    ranks = [number for number in processes_of(config) if number not in (both[0].pid, both[1].pid)]
    both[killed].kill()
    output, errors = both[1 - killed].communicate(timeout=100)
    assert both[1 - killed].returncode == code and words in output + errors and "Traceback" not in errors, (
        errors
    )
    last, _ = both[killed].communicate(timeout=60)  # its rank has its pipes
    assert "stopped by its launcher, which died or restarts it, after update" in output + last
    assert (
        len(ranks) == 2 and not processes_of(config) and newest_checkpoint(tmp_path / "tiny" / "checkpoints")
    )


def test_a_rank_that_loses_its_launcher_is_not_a_stop_for_the_launchers_of_others(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    process = start(
        *RANKS, "--standalone", "--nproc_per_node=2", "--max-restarts=1", "launch/train.py", config
    )
    under_way(tmp_path / "tiny", process)
    first = ranks_of(process, config)
    os.kill(first[-1], FROM_LAUNCHER)
    wait_until(
        lambda: not set(first) & set(processes_of(config)) and len(ranks_of(process, config)) == 2, process
    )
    goes_on(tmp_path / "tiny", process)
    process.send_signal(signal.SIGUSR1)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 85, errors
    assert (
        "stopped by its launcher, which died or restarts it," in output
        and f"continues from {tmp_path}" in output
    )


def launch_two_by_hand(config):
    """Start two ranks without a launcher, so that nobody looks after them."""
    port = str(free_port())
    return [
        start(
            sys.executable,
            "launch/train.py",
            config,
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
        )
        for rank in (0, 1)
    ]


def end(process):
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "minutes, second, code, words",
    [
        (30, True, 128 + signal.SIGTERM, "a second SIGTERM or Ctrl-C ends it at once"),
        (0.3, False, 1, "Timed out waiting 18000ms"),
    ],
)
def test_a_rank_that_waits_in_vain_ends_at_the_second_signal_or_after_its_time(
    shards, tmp_path, minutes, second, code, words
):
    config = write_config(tmp_path, long_config(shards, tmp_path, group_timeout_minutes=minutes))
    waiting, hung = launch_two_by_hand(config)
    try:
        under_way(tmp_path / "tiny", waiting)
        hung.send_signal(signal.SIGSTOP)
        if second:
            waiting.send_signal(signal.SIGTERM)
            time.sleep(3)  # within two seconds they are one
            assert waiting.poll() is None
            waiting.send_signal(signal.SIGTERM)
        _, errors = waiting.communicate(timeout=60)
        assert waiting.returncode == code and words in errors, errors
    finally:
        end(waiting)
        end(hung)


# Ranks that are killed, and that are sent a signal alone


def work(launcher, task, config, out):
    """Run a task of distributed_worker.py on two ranks; returns the exit code, what was printed and the ranks' reports."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    process = start(*launcher, "--standalone", "--nproc_per_node=2", WORKER, task, config, out)
    output, errors = process.communicate(timeout=300)
    return (
        process.returncode,
        output,
        errors,
        [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))],
    )


def test_a_signal_to_the_launcher_in_the_last_validation_lets_the_training_end(shards, tmp_path):
    config = write_config(tmp_path, config_of(shards, tmp_path))
    code, output, errors, reports = work(RANKS, "late", config, tmp_path / "out")
    assert "SIGUSR1: the training saves" in errors and "adversarial is finished" in output, errors
    assert code == 0 and reports[0] == reports[1]


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_and_then_stopped_end_as_undisturbed_ones(shards, tmp_path):
    changes = {"checkpoint_every": 3, "tracking": {"wandb": "offline"}, "log_every": 1}
    quiet = write_config(tmp_path, config_of(shards, tmp_path / "quiet", **changes))
    code, _, errors, expected = work(RANKS, "train", quiet, tmp_path / "out")
    assert code == 0 and expected[0] == expected[1], errors

    config = config_of(shards, tmp_path / "runs", **changes)
    path = write_config(tmp_path, config)
    code, output, errors, _ = work([*RANKS, "--max-restarts=1"], "disturbed", path, tmp_path / "out")
    assert code == 85, errors
    assert "continues from" in output and "step-00000003" in output  # the last checkpoint before update 5
    assert "stopped by SIGTERM after update 8" in output
    code, output, errors, reports = work(RANKS, "train", path, tmp_path / "out")
    assert code == 0 and "step-00000008" in output, errors
    assert reports == expected
    seen = [record["samples_seen"] for record in records(config, "loss/pixel")]
    assert seen == [4 * update for update in range(1, 11)]
    folders = [folder.name for folder in (tmp_path / "runs" / "tiny" / "wandb").glob("offline-run-*")]
    assert len(folders) == 3 and len({name.rpartition("-")[2] for name in folders}) == 1  # parts of one run
