"""The files of launch/slurm and launch/accelerate, with a SLURM that is four small scripts and two nodes that are two network namespaces."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from commands import RANKS, long_config, processes_of, start, under_way, wait_until, write_config
from conftest import REPOSITORY, tiny_config, write_folder
from distributed_worker import digest

from srgan_dist.config import load_config
from srgan_dist.data.split import open_split
from srgan_dist.models.weights_file import load_generator

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
    accelerate = Path(sys.executable).with_name("accelerate")
    process = start(
        accelerate,
        "launch",
        "--config_file",
        LAUNCH / "accelerate" / "cpu.yaml",
        "launch/train.py",
        config,
        ACCELERATE_USE_CPU="0",
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "pretrain is finished" in output, errors


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
    """Return the number of a job whose port (many_nodes.sbatch) is free: other tests have jobs at the same time."""
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
        ("one_node", {"RANKS_PER_NODE": "2"}),
        ("many_nodes", {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1"}),
    ],
)
def test_a_job_whose_time_is_up_queues_itself_again_and_ends(shards, tmp_path, slurm, script, environment):
    config = write_config(tmp_path, long_config(shards, tmp_path, steps=150))
    job = start("sbatch", LAUNCH / "slurm" / f"{script}.sbatch", config, "--name=tiny", **slurm | environment)
    under_way(tmp_path / "tiny", job)
    warn(slurm)
    output, errors = job.communicate(timeout=240)
    assert job.returncode == 0, errors
    (stop,) = re.findall(r"stopped by SIGUSR1 after update (\d+), which is saved", output)
    assert f"continues from {tmp_path / 'tiny' / 'checkpoints'}/step-{int(stop):08d}" in output
    assert (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists() and not processes_of(config)


def test_a_job_whose_time_is_up_before_its_training_has_begun_is_queued_again(shards, tmp_path, slurm):
    config = write_config(tmp_path, tiny_config(shards, tmp_path))
    python = (
        tmp_path / "python"
    )  # the first time it dies of the signal, as Python does before a launcher has its handlers
    python.write_text(
        f'#!/usr/bin/env bash\nif [ "$SLURM_RESTART_COUNT" = 0 ]; then touch {tmp_path}/begun; exec sleep 600; fi\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    job = start(
        "sbatch",
        LAUNCH / "slurm" / "one_node.sbatch",
        config,
        **slurm | {"PYTHON": str(python), "RANKS_PER_NODE": "1"},
    )
    wait_until((tmp_path / "begun").exists, job)
    warn(slurm)
    output, errors = job.communicate(timeout=240)
    assert job.returncode == 0, errors
    assert (tmp_path / "tiny" / "weights" / "adversarial.safetensors").exists()


@pytest.mark.parametrize("script", ["one_node", "many_nodes"])
def test_a_job_that_fails_is_not_queued_again(tmp_path, slurm, script):
    job = start(
        "sbatch",
        LAUNCH / "slurm" / f"{script}.sbatch",
        tmp_path / "none.yaml",
        **slurm,
        SLURM_GPUS_ON_NODE="1",
        SLURM_JOB_NUM_NODES="1",
        MAX_RESTARTS="0",
    )
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 1 and f"error: CONFIG={tmp_path / 'none.yaml'} does not exist" in errors


def test_a_build_whose_time_is_up_is_queued_again(tmp_path, slurm):
    write_folder(tmp_path / "hr", {"coal": 5})
    python = tmp_path / "python"
    python.write_text(
        f'#!/usr/bin/env bash\nif [ "$SLURM_RESTART_COUNT" = 0 ]; then touch {tmp_path}/begun; exec sleep 600; fi\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    job = start(
        "sbatch",
        "--cpus-per-task=2",
        LAUNCH / "slurm" / "build_shards.sbatch",
        tmp_path / "hr",
        tmp_path / "out",
        "--tile",
        "80",
        "--crop",
        "32",
        **slurm | {"PYTHON": str(python)},
    )
    wait_until((tmp_path / "begun").exists, job)
    warn(slurm)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert len(open_split(tmp_path / "out", "train")) == 3


# Two nodes

NODES = """
set -e
mount -t tmpfs tmpfs /run
ip netns add one
ip netns add two
ip link add eth0 netns one type veth peer name eth0 netns two
for node in "one 1" "two 2"; do
    set -- $node
    ip -n "$1" address add "10.77.0.$2/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" link set lo up
done
echo made
while read -r node address hosts; do
    ip netns exec "$node" $COMMAND --local-addr "$address" --rdzv_conf "is_host=$hosts" launch/train.py "$CONFIG" 2>> "$LOGS/$node" >&2 &
    echo $!
done
wait
"""


@pytest.fixture
def two_nodes(tmp_path):
    """A function that starts torchrun on node "one" or "two", each with a network of its own, and returns its number."""
    if not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("needs the commands ip and unshare")
    command = [
        *RANKS,
        "--nnodes=2",
        "--nproc_per_node=1",
        "--max-restarts=3",
        "--rdzv_backend=c10d",
        "--rdzv_id=7",
        "--rdzv_endpoint=10.77.0.1:29511",
    ]
    process = start(
        "unshare",
        "--map-root-user",
        "--net",
        "--mount",
        "bash",
        "-c",
        NODES,
        COMMAND=" ".join(command),
        CONFIG=str(tmp_path / "config.yaml"),
        LOGS=str(tmp_path),
        GLOO_SOCKET_IFNAME="eth0",
    )
    if process.stdout.readline() != "made\n":
        pytest.skip(f"network namespaces cannot be made here: {process.communicate()[1].strip()}")

    def run(node):
        process.stdin.write({"one": "one 10.77.0.1 true\n", "two": "two 10.77.0.2 false\n"}[node])
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    for number in processes_of(tmp_path / "config.yaml"):
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=60)


def ended(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, folder, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [(folder / node).read_text()[-3000:] for node in ("one", "two")]
        time.sleep(0.1)


@pytest.mark.slow
def test_a_node_that_dies_and_comes_back_goes_on_with_the_other(shards, tmp_path, two_nodes):
    config = long_config(shards, tmp_path, steps=1500, checkpoint_every=10)
    write_config(tmp_path, config)
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    one, two = two_nodes("one"), two_nodes("two")
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 20, tmp_path)
    os.kill(two, signal.SIGKILL)
    wait_for(lambda: ended(two), tmp_path)
    again = two_nodes("two")
    wait_for(lambda: ended(one) and ended(again), tmp_path)
    text = "".join((tmp_path / node).read_text() for node in ("one", "two"))
    assert (
        "stopped by its launcher, which died or restarts it," in text
        and "continues from" in text
        and "pretrain is finished" in text
    ), text
    assert [
        record["samples_seen"]
        for record in map(json.loads, metrics.read_text().splitlines())
        if "loss/pixel" in record
    ] == [4 * update for update in range(1, 1501)]

    alone = write_config(tmp_path, config.model_copy(update={"name": "alone"}))
    process = start(*RANKS, "--standalone", "--nproc_per_node=2", "launch/train.py", alone)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    weights = [
        load_generator(tmp_path / name / "weights" / "pretrain.safetensors")[0] for name in ("tiny", "alone")
    ]
    assert digest(weights[0]) == digest(weights[1])
