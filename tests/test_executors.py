import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import REPOSITORY
from srgan_dist.executors import usable_cores


def test_at_least_one_core_is_usable():
    assert usable_cores() >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_only_cores_that_the_process_may_use_count():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


FREE_OF_TORCH = """
import runpy, sys
sys.argv[0] = "shards/{script}.py"
runpy.run_path("shards/{script}.py", run_name="__mp_main__")  # as a process that is started by spawn does
import srgan_dist.data.pack
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("script", ["build", "synthesize"])
def test_processes_that_pack_start_without_loading_torch(script):
    done = subprocess.run([sys.executable, "-c", FREE_OF_TORCH.format(script=script)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def pids(_):
    return os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not list its processes in /proc")
def test_processes_end_with_the_one_that_started_them_however_that_ends():
    script = ("import os, signal, sys; sys.path.insert(0, 'tests')\n"
              "from srgan_dist.executors import process_pool\n"
              "from test_executors import pids\n"
              "if __name__ == '__main__':\n"
              "    with process_pool(2) as mapped:\n"
              "        print(*set(mapped(pids, range(4))), flush=True)\n"
              "        os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and workers, done.stderr
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
