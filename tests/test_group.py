"""An error of one rank of several, which nobody else looks after: it is said, and all ranks end."""

import sys

import pytest

from commands import free_port, long_config, start, write_config
from conftest import REPOSITORY
from distributed_worker import FAULTY_UPDATE

WORKER = REPOSITORY / "tests" / "distributed_worker.py"


def ended(task, config, out, **environment):
    """Run a task on two ranks without a launcher; returns [(exit code, stderr)] of both, within a minute of the last start."""
    out.mkdir()
    path, port = write_config(out, config), str(free_port())
    processes = [start(sys.executable, WORKER, task, path, out, MASTER_ADDR="localhost", MASTER_PORT=port, RANK=str(rank), LOCAL_RANK=str(rank),
                       WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", **environment) for rank in (0, 1)]
    try:
        return [_ended(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _ended(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_fault_of_ours_on_one_rank_ends_the_other_that_waits_for_it(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended("fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="exception")
    assert (zero, one) == (1, 1)
    assert "rank 1: Traceback" in here and "RuntimeError: a fault of ours" in here
    assert elsewhere.count("error: rank 0: ended, because rank 1 failed: a fault of ours\n") == 1 and "Traceback" not in elsewhere


def test_a_full_disk_of_the_rank_that_saves_ends_the_other(shards, tmp_path):
    config = long_config(shards, tmp_path, steps=FAULTY_UPDATE + 1)
    (zero, here), (one, elsewhere) = ended("fault", config, tmp_path / "out", FAULT="disk")
    assert (zero, one) == (1, 1)
    assert here.count("error: rank 0: ") == 1 and "pretrain.safetensors cannot be written" in here and "Traceback" not in here
    assert "error: rank 1: ended, because rank 0 failed: " in elsewhere and "Traceback" not in elsewhere


def test_a_damaged_shard_of_one_rank_ends_the_other(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended("fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="shard")
    assert (zero, one) == (1, 1)
    assert "error: rank 1: " in here and "has been cut while it was read" in here and "Traceback" not in here
    assert "error: rank 0: ended, because rank 1 failed: " in elsewhere and "Traceback" not in elsewhere


def test_a_lack_of_memory_names_the_settings_that_help(shards, tmp_path):
    (zero, elsewhere), (one, here) = ended("fault", long_config(shards, tmp_path), tmp_path / "out", FAULT="memory")
    assert (zero, one) == (1, 1)
    assert ("does not hold an update of data.batch_size=4: 2 crops of 32 HR pixels at a time on each of 2 rank(s) (accumulation=1)."
            " Use accumulation=2, which trains the same but for batch normalisation") in here and "Traceback" not in here
    assert "error: rank 0: ended, because rank 1 failed: " in elsewhere


@pytest.mark.parametrize("launcher", ["torchrun", "ranks.py"])
def test_under_a_launcher_the_error_is_printed_and_the_exit_code_is_1(shards, tmp_path, launcher):
    path = write_config(tmp_path, long_config(shards, tmp_path))
    command = {"torchrun": ["-m", "torch.distributed.run"], "ranks.py": ["launch/ranks.py"]}[launcher]
    (tmp_path / "out").mkdir()
    process = start(sys.executable, *command, "--standalone", "--nproc_per_node=2", WORKER, "fault", path, tmp_path / "out", FAULT="exception")
    code, errors = _ended(process)
    assert code == 1 and "RuntimeError: a fault of ours" in errors
