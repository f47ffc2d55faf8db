import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_folder

from srgan_dist.cli import main
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import process_pool, usable_cores, workers

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_only_cores_that_the_process_may_use_count():
    cores = os.sched_getaffinity(0)
    assert usable_cores() == len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


# Processes


def process_id(_):
    return os.getpid()


def touch(path):
    time.sleep(0.01)
    path.touch()


def kill_worker(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("jobs, count", [(1, 300), (None, 3)])
def test_few_items_or_one_job_need_no_process(jobs, count):
    with workers("processes", jobs) as run:
        assert set(run(process_id, range(count))) == {os.getpid()}


def test_processes_give_results_in_order_and_what_is_waiting_when_a_caller_gives_up_is_cancelled(tmp_path):
    with pytest.raises(KeyError), workers("processes", 2) as run:
        assert list(run(abs, [-3, 2, -1])) == [3, 2, 1]
        assert os.getpid() not in set(run(process_id, range(3)))
        for number, _ in enumerate(run(touch, [tmp_path / str(i) for i in range(200)])):
            if number == 2:
                raise KeyError
    assert 3 <= len(list(tmp_path.iterdir())) < 100


def test_a_killed_process_is_named():
    with pytest.raises(UserError, match="one of 2 processes was killed, .* try again with fewer --jobs"):
        with process_pool(2) as run:
            list(run(kill_worker, range(9)))


KILLED = """
import os, signal
from srgan_dist.utils.executors import process_pool
if __name__ == "__main__":
    with process_pool(2) as run:
        print(*set(run(os.getpgid, [0] * 4)), *set(run(eval, ["__import__('os').getpid()"] * 4)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_processes_end_with_the_one_that_started_them_however_that_ends():
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=REPOSITORY, capture_output=True, text=True)
    _, *children = map(int, done.stdout.split())
    assert done.returncode == -signal.SIGKILL and children, done.stderr
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


ENDED = """
import sys, time
from pathlib import Path
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.executors import process_pool

def work(path):
    path.touch()
    try:
        time.sleep(5)
    finally:
        path.unlink()

if __name__ == "__main__":
    with cli_errors(), process_pool(2) as run:
        list(run(work, [Path(sys.argv[1], str(number)) for number in range(8)]))
"""


def test_after_sigterm_no_process_begins_another_job(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (tmp_path / "ended.py").write_text(ENDED)
    command = [sys.executable, tmp_path / "ended.py", folder]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, start_new_session=True, env=environment, stderr=subprocess.PIPE, text=True
    )
    while len(list(folder.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # stderr is open until the last process has ended
    assert (process.returncode, errors) == (143, "ended by SIGTERM\n")
    assert not list(folder.iterdir())


def test_processes_that_pack_or_synthesize_start_without_torch():
    code = """
import runpy, sys
for script in ("build", "synthesize"):
    sys.argv[0] = f"shards/{script}.py"
    runpy.run_path(sys.argv[0], run_name="__mp_main__")  # as a process that is started by spawn does
import srgan_dist.packing.pack
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# Engines


MAPPED = """
import os, sys, time
from srgan_dist.utils.errors import UserError, cli_errors
from srgan_dist.utils.executors import WorkersLost, workers

def half(item):
    if item < 0:
        os._exit(1)
    if item % 2:
        raise UserError(f"{item} is odd")
    return item // 2

if __name__ == "__main__":
    with cli_errors(), workers(sys.argv[1]) as run:
        if run is not None:
            for items in ([8, 6, 4, 2], list(map(int, sys.argv[2:]))):
                print(*run(half, items), flush=True)
"""


def run_in(folder, *command):
    (folder / "mapped.py").write_text(MAPPED)
    (folder / "custom.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\nthree = lambda: ThreadPoolExecutor(3)\n"
    )
    path = os.pathsep.join([str(REPOSITORY), str(folder)])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_dask_keeps_the_order_and_an_error_is_that_of_the_job(tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster:
        address = f"dask:{cluster.scheduler_address}"
        done = run_in(tmp_path, sys.executable, "-W", "error", "mapped.py", address, "6", "7")
    assert (done.returncode, done.stdout, done.stderr) == (1, "4 3 2 1\n", "error: 7 is odd\n")


@pytest.mark.slow
def test_a_dask_of_this_machine_needs_no_port_of_its_own(tmp_path):
    pytest.importorskip("distributed")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # some other program has it already
            stack.enter_context(socket.create_server(("", 8787)))
        done = run_in(tmp_path, sys.executable, "-W", "error", "mapped.py", "dask", "6")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 3 2 1\n3\n", "")


@pytest.mark.slow
def test_a_dask_of_this_machine_that_loses_its_workers_says_so(tmp_path):
    pytest.importorskip("distributed")
    done = run_in(tmp_path, sys.executable, "mapped.py", "dask", "-1")
    assert done.returncode == 1 and done.stdout == "4 3 2 1\n"
    assert "error: executor=dask has lost workers; start the same command again" in done.stderr


def test_an_error_under_mpi_ends_all_processes(tmp_path):
    done = run_in(tmp_path, mpiexec(), "-n", "2", sys.executable, "mapped.py", "mpi", "6", "7")
    assert (done.returncode, done.stdout) == (1, "4 3 2 1\n") and done.stderr.count("error: 7 is odd") == 1


def test_mpi_without_a_launch_says_how(tmp_path):
    mpiexec()
    done = run_in(tmp_path, sys.executable, "mapped.py", "mpi")
    assert done.returncode == 1 and "executor=mpi needs two processes or more" in done.stderr


def mpiexec():
    """Return the launcher beside this Python, or skip."""
    pytest.importorskip("mpi4py")
    path = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
    return path or pytest.skip("no mpiexec")


@pytest.mark.parametrize("executor", ["custom:three", "mpi"])
def test_the_build_command_packs_the_same_bytes_with_any_executor(tmp_path, executor):
    from conftest import TINY, write_folder  # not at the top: processes that import this module need no torch

    from srgan_dist.packing.build import build

    source = write_folder(tmp_path / "hr", {"coal": 4, "sandstone": 5})
    build(source, tmp_path / "alone", TINY)
    options = f"--tile {TINY.tile} --crop {TINY.crop} --samples-per-shard {TINY.samples_per_shard}".split()
    script = REPOSITORY / "shards" / "build.py"
    launcher = [mpiexec(), "-n", "2", sys.executable] if executor == "mpi" else [sys.executable]
    done = run_in(tmp_path, *launcher, "-W", "error", script, "hr", "out", *options, "--executor", executor)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("written in") == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "executor, words",
    [
        ("proceses", "executor=proceses must be processes, dask, mpi, dask:ADDRESS or MODULE:FACTORY"),
        (
            "nowhere:factory",
            "executor=nowhere:factory cannot be made .No module named 'nowhere'.; MODULE must",
        ),
        ("os:factory", "executor=os:factory cannot be made .module 'os' has no attribute 'factory'"),
        ("builtins:list", "executor=builtins:list gives list, which is no Executor of concurrent.futures"),
        (
            "dask:nonsense://1",
            "executor=dask:nonsense://1 has no scheduler .*start them with: dask scheduler",
        ),
    ],
)
def test_executors_that_are_refused(executor, words):
    if executor.startswith("dask"):
        pytest.importorskip("distributed")
    with pytest.raises(UserError, match=words), workers(executor):
        pass


@pytest.mark.parametrize("name, package", [("dask", "distributed"), ("mpi", "mpi4py mpich")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    for module in ("distributed", "mpi4py.futures"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    words = f"executor={name} cannot be loaded .*; install it with: pip install {package}"
    with pytest.raises(UserError, match=words), workers(name):
        pass


def test_jobs_go_with_processes_only():
    words = "jobs=4 goes with executor=processes only: dask has workers of its own; leave out --jobs"
    with pytest.raises(UserError, match=words), workers("dask", 4):
        pass


def test_without_shared_memory_the_command_names_it_and_the_way_out(tmp_path, monkeypatch, capsys):
    class NoSemaphore:
        SEM_VALUE_MAX = 1

        def __init__(self, *arguments):
            raise FileNotFoundError(2, "No such file or directory")  # as without /dev/shm

    write_folder(tmp_path / "hr", {"coal": 4})
    monkeypatch.setattr("_multiprocessing.SemLock", NoSemaphore)
    command = ["build", str(tmp_path / "hr"), str(tmp_path / "out"), "--tile", "80", "--crop", "32", "--jobs"]
    with pytest.raises(SystemExit, match="1"):
        main([*command, "2"])
    said = capsys.readouterr().err
    assert "error: --jobs 2: processes need semaphores in /dev/shm" in said and "--jobs 1" in said, said
    main([*command, "1"])
    assert (tmp_path / "out" / "manifest.json").exists()
