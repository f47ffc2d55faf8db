"""Two nodes that are two network namespaces, of which one dies and comes back."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import RANKS, long_config, processes_of, run, start, write_config
from distributed_worker import digest

from srgan_dist.models.weights_file import load_generator

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
    ip netns exec "$node" $COMMAND --local-addr "$address" --rdzv_conf "is_host=$hosts" \\
        launch/train.py "$CONFIG" 2>> "$LOGS/$node" >&2 &
    echo $!
done
wait
"""


@pytest.fixture
def two_nodes(tmp_path):
    """A function that starts launch/ranks.py on node "one" or "two" and returns its process id."""
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
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while the file was open
        return True


def wait_for(condition, folder, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [(folder / node).read_text()[-3000:] for node in ("one", "two")]
        time.sleep(0.1)


@pytest.mark.slow
def test_a_node_that_dies_and_comes_back_goes_on_with_the_other(shards, tmp_path, two_nodes):
    config = long_config(shards, tmp_path, steps=300, checkpoint_every=10)
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
    ] == [4 * update for update in range(1, 301)]

    alone = write_config(tmp_path, config.model_copy(update={"name": "alone"}))
    done = run(*RANKS, "--standalone", "--nproc_per_node=2", "launch/train.py", alone)
    assert done.returncode == 0, done.stderr
    weights = [
        load_generator(tmp_path / name / "weights" / "pretrain.safetensors")[0] for name in ("tiny", "alone")
    ]
    assert digest(weights[0]) == digest(weights[1])
