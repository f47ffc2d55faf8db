"""Launchers and nodes that come and go: no process is left, the run is saved, other ranks continue."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from commands import (
    RANKS,
    finished,
    free_port,
    long_config,
    processes_of,
    run,
    start,
    under_way,
    wait_until,
    write_config,
)

from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.runtime.parent_death import FROM_LAUNCHER

STOPPED_BY_LAUNCHER = "stopped by its launcher, which died or restarts it,"


def ranks_of(launcher, config):
    return [number for number in processes_of(config) if number != launcher.pid]


def wait_for_progress(run, process):
    """Wait until a training has reported five more updates."""
    metrics = run / "metrics.jsonl"
    lines = len(metrics.read_text().splitlines())
    wait_until(lambda: len(metrics.read_text().splitlines()) > lines + 5, process)


@pytest.mark.parametrize("importing", [False, True], ids=["before Python", "while it imports"])
def test_a_launcher_that_is_killed_while_its_rank_starts_leaves_no_process(shards, tmp_path, importing):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    new_interpreter = ["env"] if importing else ["bash", "-c", 'sleep 1; exec "$@"', "bash"]
    one_rank = ("--standalone", "--nproc_per_node=1", "--no-python")
    process = start(*RANKS, *one_rank, *new_interpreter, sys.executable, "launch/train.py", config)
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


def test_a_rank_that_loses_its_launcher_is_not_a_stop_for_the_launchers_of_others(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    two_ranks = ("--standalone", "--nproc_per_node=2", "--max-restarts=1")
    process = start(*RANKS, *two_ranks, "launch/train.py", config)
    under_way(tmp_path / "tiny", process)
    first = set(ranks_of(process, config))
    os.kill(max(first), FROM_LAUNCHER)
    wait_until(lambda: not first & set(processes_of(config)) and len(ranks_of(process, config)) == 2, process)
    wait_for_progress(tmp_path / "tiny", process)
    process.send_signal(signal.SIGUSR1)
    done = finished(process)
    assert done.returncode == 85, done.stderr
    assert STOPPED_BY_LAUNCHER in done.stdout and f"continues from {tmp_path}" in done.stdout


def two_launchers(config, *options):
    """Return functions that start launch/ranks.py as the first and as the second node, one rank each."""
    group = ("--rdzv_backend=c10d", "--rdzv_id=7", f"--rdzv_endpoint=localhost:{free_port()}", *options)

    def start_node(is_host):
        conf = f"--rdzv_conf=is_host={is_host},join_timeout=100,last_call_timeout=1"
        return start(*RANKS, "--nproc_per_node=1", *group, conf, "launch/train.py", config)

    return lambda: start_node("true"), lambda: start_node("false")


def test_a_node_that_joins_restarts_the_ranks_and_stopping_it_stops_all(shards, tmp_path):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    start_first, start_second = two_launchers(config, "--nnodes=1:2", "--max-restarts=3")
    first = start_first()
    under_way(tmp_path / "tiny", first)
    (single_rank,) = ranks_of(first, config)
    second = start_second()
    wait_until(lambda: single_rank not in processes_of(config), first)
    wait_for_progress(tmp_path / "tiny", second)
    second.send_signal(signal.SIGTERM)
    one, two = finished(first), finished(second)
    assert one.returncode == 85 and two.returncode == 85, one.stderr + two.stderr
    assert STOPPED_BY_LAUNCHER in one.stdout and "stopped by SIGTERM" in one.stdout, one.stdout
    assert f"continues from {tmp_path}" in one.stdout and "Traceback" not in one.stderr + two.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed, code, words", [(1, 85, "stopped by its launcher"), (0, 1, "the launchers have lost each other")]
)
def test_a_launcher_that_is_killed_leaves_no_process_and_a_saved_run(shards, tmp_path, killed, code, words):
    slow_updates = {  # seconds each, so that torchrun notices first
        "data": {"path": str(shards), "lr_crop": 8, "batch_size": 512},
        "generator": {"name": "srresnet", "num_blocks": 8, "num_filters": 32},
    }
    config = write_config(tmp_path, long_config(shards, tmp_path, **slow_updates))
    launchers = [start_node() for start_node in two_launchers(config, "--nnodes=2")]
    under_way(tmp_path / "tiny", launchers[0])
    ranks = set(processes_of(config)) - {launcher.pid for launcher in launchers}
    launchers[killed].kill()
    done = finished(launchers[1 - killed])
    assert done.returncode == code and words in done.stdout + done.stderr and "Traceback" not in done.stderr
    orphan = finished(launchers[killed])  # its rank has its pipes
    assert f"{STOPPED_BY_LAUNCHER} after update" in done.stdout + orphan.stdout
    assert len(ranks) == 2 and not processes_of(config)
    assert newest_checkpoint(tmp_path / "tiny" / "checkpoints")


@pytest.mark.parametrize("launcher", [True, False], ids=["ranks.py", "a rank"])
def test_a_port_of_another_program_is_named_while_it_is_waited_for(launcher, tmp_path):
    with socket.create_server(("localhost", 0)) as silent:
        port = silent.getsockname()[1]
        soon = "from srgan_dist.utils import progress\nprogress.SILENT_SECONDS = 1\n"
        soon += "import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        options = ("--nnodes=2", "--rdzv_backend=c10d", "--rdzv_id=7", f"--rdzv_endpoint=localhost:{port}")
        command = [*RANKS[1:], *options] if launcher else []
        group = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "1",
        }
        process = start(
            *(sys.executable, "-c", soon, *command, "launch/train.py", "configs/demo.yaml", "--device=cpu"),
            **{} if launcher else {"RANK": "1", "LOCAL_RANK": "0"} | group,
        )
        who = (
            "ranks.py waits for the launchers of --nnodes=2"
            if launcher
            else "rank 1 waits for the others of 2 ranks"
        )
        try:
            line = process.stderr.readline()
            assert line.startswith(f"{who} at localhost:{port}; if all have started, that port belongs to"), (
                line
            )
        finally:
            process.kill()
            process.communicate()


def test_a_port_that_is_taken_is_an_error_that_names_it():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(*RANKS, "--master_addr=localhost", f"--master_port={port}", "launch/train.py")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: localhost:{port} belongs to another program; give another port" in done.stderr
