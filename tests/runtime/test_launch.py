"""The files of launch/accelerate and launch/slurm, with a SLURM of four small scripts."""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from commands import (
    ACCELERATE,
    finished,
    long_config,
    processes_of,
    run,
    run_fresh,
    start,
    under_way,
    wait_until,
    write_config,
)
from conftest import REPOSITORY, tiny_config, write_folder

from srgan_dist.config import load_config
from srgan_dist.data.split import open_split

LAUNCH = REPOSITORY / "launch"


def command_in_head(path):
    """Return the words of the command in the head comment of a file."""
    text = path.read_text().replace("\\\n#  ", "")
    (command,) = re.findall(r"^#   (\S.*)$", text, re.MULTILINE)
    return shlex.split(command)


# Accelerate

GPUS = {"one_gpu": (1, 1), "eight_gpus": (8, 1), "two_nodes": (16, 2), "cpu": (1, 1)}  # processes, machines


@pytest.mark.parametrize("path", sorted((LAUNCH / "accelerate").iterdir()), ids=lambda path: path.stem)
def test_accelerate_knows_every_key_and_option(path):
    settings = load_config_from_file(str(path))  # refuses unknown keys
    assert (settings.num_processes, settings.num_machines) == GPUS[path.stem]
    assert settings.use_cpu is (path.stem == "cpu") and settings.mixed_precision == "no"
    accelerate, launch, *words = command_in_head(path)
    assert (accelerate, launch) == ("accelerate", "launch")
    given = launch_command_parser().parse_args(words)
    assert (
        REPOSITORY / given.config_file == path and REPOSITORY / given.training_script == LAUNCH / "train.py"
    )
    config, *settings = given.training_script_args
    assert load_config(REPOSITORY / config, [text.removeprefix("--") for text in settings])


def test_the_settings_for_cpu_train(shards, tmp_path):
    config = write_config(tmp_path, tiny_config(shards, tmp_path, adversarial=None))
    settings = ("--config_file", LAUNCH / "accelerate" / "cpu.yaml")
    done = run_fresh(*ACCELERATE, *settings, "launch/train.py", config, ACCELERATE_USE_CPU="0")
    assert done.returncode == 0 and "pretrain is finished" in done.stdout, done.stderr


# SLURM

FAKES = {
    "sbatch": """
        while [[ "$1" == -* ]]; do shift; done
        export SLURM_JOB_NODELIST=localhost SLURM_RESTART_COUNT=0 SLURM_CPUS_PER_TASK=2
        while rm -f "$FAKE/requeue"
              bash "$@" &
              echo $! > "$FAKE/batch.new"; mv "$FAKE/batch.new" "$FAKE/batch"
              wait $!; code=$?
              [ -e "$FAKE/requeue" ]; do
            SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
        done
        exit "$code" """,
    "srun": """
        set -m  # every node is a process group, which is all that is ever signalled
        while [[ "$1" == -* ]]; do shift; done
        nodes=()
        trap 'for node in "${nodes[@]}"; do kill -USR1 -- "-$node"; done' USR1
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do "$@" & nodes+=($!); done
        echo $$ > "$FAKE/srun.new"; mv "$FAKE/srun.new" "$FAKE/srun.pid"
        code=0
        for node in "${nodes[@]}"; do
            while wait "$node"; ended=$?; kill -0 "$node" 2>/dev/null; do :; done
            ((ended > code)) && code=$ended
        done
        rm "$FAKE/srun.pid"
        exit "$code" """,
    "scancel": """
        [[ "$*" == "--signal=USR1 $SLURM_JOB_ID" ]] && kill -USR1 "$(cat "$FAKE/srun.pid")" """,
    "scontrol": """
        case "$*" in
            "requeue $SLURM_JOB_ID") touch "$FAKE/requeue" ;;
            "show hostnames localhost") echo localhost; echo another ;;
            *) exit 1 ;;
        esac""",
}


def free_job():
    """Return the number of a job whose port (many_nodes.sbatch) is free: other tests may run jobs too."""
    while True:
        job = random.randrange(10_000)
        with contextlib.suppress(OSError), socket.create_server(("", 20_000 + job)):
            return job


@pytest.fixture
def slurm(tmp_path):
    """The environment of a user of SLURM; a job runs here and now, and again whenever it is queued again."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in FAKES.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(free_job()),
        "FAKE": str(folder),
        "PYTHON": sys.executable,
        "DEVICE": "cpu",
        "ACCELERATE_USE_CPU": "0",
    }


def warn(slurm):
    """Send the running job what `--signal=B:TERM` does; nothing but its batch script may get it."""
    number = int((Path(slurm["FAKE"]) / "batch").read_text())
    assert b".sbatch\0" in Path(f"/proc/{number}/cmdline").read_bytes()
    os.kill(number, signal.SIGTERM)


@pytest.mark.parametrize("path", sorted((LAUNCH / "slurm").iterdir()), ids=lambda path: path.stem)
def test_a_job_asks_for_what_it_needs_to_be_stopped_and_queued_again(path):
    subprocess.run(["bash", "-n", path], check=True)
    sbatch, *words = command_in_head(path)
    options = [
        word
        for word in words
        if word.startswith("--") and words.index(word) < words.index(str(path.relative_to(REPOSITORY)))
    ]
    assert sbatch == "sbatch" and all("=" in option for option in options)
    asked = re.findall(r"^#SBATCH (.*)$", path.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append"} <= set(asked)
    assert any(re.fullmatch(r"--signal=B:TERM@\d+", one) for one in asked)
    _, *arguments = words[len(options) :]
    if path.stem != "build_shards":
        assert load_config(REPOSITORY / arguments[0], [text.removeprefix("--") for text in arguments[1:]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, environment",
    [
        ("one_node", {"RANKS_PER_NODE": "1"}),
        ("many_nodes", {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1"}),
    ],
)
def test_a_job_whose_time_is_up_queues_itself_again_and_ends(shards, tmp_path, slurm, script, environment):
    config = write_config(tmp_path, long_config(shards, tmp_path, steps=150))
    job = start("sbatch", LAUNCH / "slurm" / f"{script}.sbatch", config, "--name=tiny", **slurm | environment)
    under_way(tmp_path / "tiny", job)
    warn(slurm)
    done = finished(job)
    assert done.returncode == 0, done.stderr
    (stop,) = re.findall(r"stopped by SIGUSR1 after update (\d+), which is saved", done.stdout)
    assert f"continues from {tmp_path / 'tiny' / 'checkpoints'}/step-{int(stop):08d}" in done.stdout
    assert (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists() and not processes_of(config)


@pytest.fixture
def slow_python(tmp_path):
    """A Python that hangs in the first attempt of a job until its signal; it leaves a file "begun"."""
    path = tmp_path / "python"
    hang = f'if [ "$SLURM_RESTART_COUNT" = 0 ]; then touch {tmp_path}/begun; exec sleep 600; fi'
    path.write_text(f'#!/usr/bin/env bash\n{hang}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return {"PYTHON": str(path)}


def test_a_job_whose_time_is_up_before_its_training_has_begun_is_queued_again(
    shards, tmp_path, slurm, slow_python
):
    config = write_config(tmp_path, tiny_config(shards, tmp_path))
    one_rank = slurm | slow_python | {"RANKS_PER_NODE": "1"}
    job = start("sbatch", LAUNCH / "slurm" / "one_node.sbatch", config, **one_rank)
    wait_until((tmp_path / "begun").exists, job)
    warn(slurm)
    done = finished(job)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "weights" / "adversarial.safetensors").exists()


@pytest.mark.parametrize("script", ["one_node", "many_nodes"])
def test_a_job_that_fails_is_not_queued_again(tmp_path, slurm, script):
    (tmp_path / "python").write_text("#!/usr/bin/env bash\necho started >> $FAKE/starts\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    one_node = {"SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NUM_NODES": "1", "PYTHON": str(tmp_path / "python")}
    done = run("sbatch", LAUNCH / "slurm" / f"{script}.sbatch", tmp_path / "none.yaml", **slurm | one_node)
    assert done.returncode == 1
    assert (Path(slurm["FAKE"]) / "starts").read_text() == "started\n"


def test_a_build_whose_time_is_up_is_queued_again(tmp_path, slurm, slow_python):
    write_folder(tmp_path / "hr", {"coal": 5})
    script = LAUNCH / "slurm" / "build_shards.sbatch"
    arguments = (tmp_path / "hr", tmp_path / "out", "--tile", "80", "--crop", "32")
    job = start("sbatch", "--cpus-per-task=2", script, *arguments, **slurm | slow_python)
    wait_until((tmp_path / "begun").exists, job)
    warn(slurm)
    done = finished(job)
    assert done.returncode == 0, done.stderr
    assert len(open_split(tmp_path / "out", "train")) == 3
