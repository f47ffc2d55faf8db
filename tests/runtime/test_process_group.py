"""An error of one rank of several, which nobody else looks after: it is said, and all ranks end."""

import sys
import time

import pytest
import torch.distributed
from commands import free_port, long_config, start, write_config
from conftest import REPOSITORY
from distributed_worker import FAULTY_UPDATE
from torch.testing._internal.distributed.fake_pg import FakeStore

from srgan_dist.runtime import process_group as group

WORKER = REPOSITORY / "tests" / "distributed_worker.py"


def ended(task, config, out, **environment):
    """Run a task on two ranks without a launcher; returns [(exit code, stderr)] of both, within a minute of the last start."""
    out.mkdir()
    path, port = write_config(out, config), str(free_port())
    processes = [
        start(
            sys.executable,
            WORKER,
            task,
            path,
            out,
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            **environment,
        )
        for rank in (0, 1)
    ]
    try:
        return [_ended(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _ended(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_fault_of_ours_on_one_rank_ends_the_other_that_waits_for_it(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended(
        "fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="exception"
    )
    assert (zero, one) == (1, 1)
    assert "rank 1: Traceback" in here and "RuntimeError: a fault of ours" in here
    assert (
        elsewhere.count("error: rank 0: ended, because rank 1 failed: a fault of ours\n") == 1
        and "Traceback" not in elsewhere
    )


def test_a_full_disk_of_the_rank_that_saves_ends_the_other(shards, tmp_path):
    config = long_config(shards, tmp_path, steps=FAULTY_UPDATE + 1)
    (zero, here), (one, elsewhere) = ended("fault", config, tmp_path / "out", FAULT="disk")
    assert (zero, one) == (1, 1)
    assert (
        here.count("error: rank 0: ") == 1
        and "pretrain.safetensors cannot be written" in here
        and "Traceback" not in here
    )
    assert "error: rank 1: ended, because rank 0 failed: " in elsewhere and "Traceback" not in elsewhere


def test_a_damaged_shard_of_one_rank_ends_the_other(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended(
        "fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="shard"
    )
    assert (zero, one) == (1, 1)
    assert "error: rank 1: " in here and "has been cut while it was read" in here and "Traceback" not in here
    assert "error: rank 0: ended, because rank 1 failed: " in elsewhere and "Traceback" not in elsewhere


def test_a_lack_of_memory_names_the_settings_that_help(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended(
        "fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="memory"
    )
    assert (zero, one) == (1, 1)
    assert (
        "does not hold an update of data.batch_size=4: 2 crops of 32 HR pixels at a time on each of 2 rank(s) (gradient_accumulation_steps=1)."
        " Use gradient_accumulation_steps=2, which trains the same but for batch normalisation"
    ) in here and "Traceback" not in here
    assert "error: rank 0: ended, because rank 1 failed: " in elsewhere


@pytest.mark.parametrize("launcher", ["torchrun", "ranks.py"])
def test_under_a_launcher_the_error_is_printed_and_the_exit_code_is_1(shards, tmp_path, launcher):
    path = write_config(tmp_path, long_config(shards, tmp_path))
    command = {"torchrun": ["-m", "torch.distributed.run"], "ranks.py": ["launch/ranks.py"]}[launcher]
    (tmp_path / "out").mkdir()
    process = start(
        sys.executable,
        *command,
        "--standalone",
        "--nproc_per_node=2",
        WORKER,
        "fault",
        path,
        tmp_path / "out",
        FAULT="exception",
    )
    code, errors = _ended(process)
    assert code == 1 and "RuntimeError: a fault of ours" in errors


@pytest.fixture
def rank_1_of_2(monkeypatch):
    """A group whose rank 0 is not there, with the store of its launcher; yields the store, and where exits are noted."""
    monkeypatch.setattr(group, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(group, "GRACE_SECONDS", 0.5)
    store, left = torch.distributed.TCPStore("localhost", 0, is_master=True), []
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(group, "leave", left.append)
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    stores = [store]
    del store
    yield stores, left
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("keeper, expected", [("True", []), ("False", [1]), (None, [1])])
def test_a_store_that_is_gone_with_its_launcher_is_no_failure_of_a_rank(
    rank_1_of_2, monkeypatch, capsys, keeper, expected
):
    """The ranks of a launcher that has died save and end; without one, it is rank 0 that keeps the store."""
    stores, left = rank_1_of_2
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    if keeper:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", keeper)
    with group.end_all_ranks_on_error():
        stores.clear()
        time.sleep(1.5)
        assert left[:1] == expected
    assert ("rank 0 is gone" in capsys.readouterr().err) == bool(expected)


def test_a_rank_that_has_begun_a_checkpoint_writes_it_before_it_ends_with_the_others(rank_1_of_2):
    (store,), left = rank_1_of_2
    with group.end_all_ranks_on_error() as ranks:
        busy = [True]
        ranks.busy = lambda: busy[0]
        store.set("srgan_dist/failed/0", "rank 0 failed: no room")
        time.sleep(1.5)
        assert left == []
        busy[0] = False
        time.sleep(0.5)
        assert left[:1] == [1]
