"""An error of one rank of several without a launcher that watches them: it is reported, and all ranks end."""

import time

import pytest
import torch.distributed
from commands import RANKS, TORCHRUN, WORKER, finished, long_config, run, start_ranks, write_config
from distributed_worker import FAULTY_UPDATE
from torch.testing._internal.distributed.fake_pg import FakeStore

from srgan_dist.runtime import process_group


def train_two_ranks_with(fault, config, out):
    """Train on two ranks, one with a fault; returns (exit codes, stderr of rank 0, of rank 1)."""
    out.mkdir()
    ranks = start_ranks(WORKER, "fault", write_config(out, config), out, FAULT=fault)
    try:
        zero, one = map(finished, ranks)
    finally:
        for rank in ranks:
            rank.kill()
    return (zero.returncode, one.returncode), zero.stderr, one.stderr


def test_an_internal_error_of_one_rank_ends_the_other_that_waits_for_it(shards, tmp_path):
    codes, zero, one = train_two_ranks_with("exception", long_config(shards, tmp_path), tmp_path / "out")
    assert codes == (1, 1)
    assert "rank 1: Traceback" in one and "RuntimeError: a fault of ours" in one
    assert zero.count("error: rank 0: ended, because rank 1 failed: a fault of ours\n") == 1
    assert "Traceback" not in zero


def test_a_full_disk_of_the_rank_that_saves_ends_the_other(shards, tmp_path):
    config = long_config(shards, tmp_path, steps=FAULTY_UPDATE + 1)
    codes, zero, one = train_two_ranks_with("disk", config, tmp_path / "out")
    assert codes == (1, 1) and "Traceback" not in zero + one
    assert zero.count("error: rank 0: ") == 1 and "pretrain.safetensors cannot be written" in zero
    assert "error: rank 1: ended, because rank 0 failed: " in one


@pytest.mark.parametrize(
    "fault, words",
    [
        ("shard", "has been cut while it was read"),
        (
            "memory",
            "does not hold an update of data.batch_size=4: 2 crops of 32 HR pixels at a time on each of 2"
            " rank(s) (gradient_accumulation_steps=1). Use gradient_accumulation_steps=2, which trains the"
            " same but for batch normalisation and the objective relativistic",
        ),
    ],
)
def test_an_error_of_one_rank_names_its_cause_and_ends_the_other(shards, tmp_path, fault, words):
    codes, zero, one = train_two_ranks_with(fault, long_config(shards, tmp_path), tmp_path / "out")
    assert codes == (1, 1) and "Traceback" not in zero + one
    assert "error: rank 1: " in one and words in one
    assert "error: rank 0: ended, because rank 1 failed: " in zero


@pytest.mark.parametrize("launcher", [TORCHRUN, RANKS], ids=["torchrun", "ranks.py"])
def test_under_a_launcher_the_error_is_printed_and_the_exit_code_is_1(shards, tmp_path, launcher):
    config = write_config(tmp_path, long_config(shards, tmp_path))
    task = (WORKER, "fault", config, tmp_path)
    done = run(*launcher, "--standalone", "--nproc_per_node=2", *task, FAULT="exception")
    assert done.returncode == 1 and "RuntimeError: a fault of ours" in done.stderr


@pytest.fixture
def rank_1_of_2(monkeypatch):
    """A group without its rank 0 but with a launcher's store; yields the store, and a list of exit codes."""
    monkeypatch.setattr(process_group, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.2)
    store, exits = torch.distributed.TCPStore("localhost", 0, is_master=True), []
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(process_group, "leave", exits.append)
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    stores = [store]
    del store
    yield stores, exits
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("keeper, expected", [("True", []), ("False", [1]), (None, [1])])
def test_a_store_that_ends_with_its_launcher_is_no_failure_of_a_rank(
    rank_1_of_2, monkeypatch, capsys, keeper, expected
):
    """The ranks of a dead launcher save and end; without a launcher, rank 0 keeps the store."""
    stores, exits = rank_1_of_2
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    if keeper:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", keeper)
    with process_group.end_all_ranks_on_error():
        stores.clear()
        time.sleep(0.7)
        assert exits[:1] == expected
    assert ("rank 0 is gone" in capsys.readouterr().err) == bool(expected)


def test_a_rank_that_has_begun_a_checkpoint_writes_it_before_it_ends_with_the_others(rank_1_of_2):
    (store,), exits = rank_1_of_2
    with process_group.end_all_ranks_on_error() as ranks:
        busy = [True]
        ranks.busy = lambda: busy[0]
        store.set("srgan_dist/failed/0", "rank 0 failed: no room")
        time.sleep(0.7)
        assert exits == []
        busy[0] = False
        time.sleep(0.5)
        assert exits[:1] == [1]
