import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY, write_folder
from test_build import digests

from srgan_dist.packing.build import build
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import process_pool, usable_cores, workers


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
import srgan_dist.packing.pack
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("script", ["build", "synthesize"])
def test_processes_that_pack_start_without_loading_torch(script):
    done = subprocess.run(
        [sys.executable, "-c", FREE_OF_TORCH.format(script=script)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n", done.stderr


def pids(_):
    return os.getpid()


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="this system does not list its processes in /proc"
)
def test_processes_end_with_the_one_that_started_them_however_that_ends():
    script = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from srgan_dist.utils.executors import process_pool\n"
        "from test_executors import pids\n"
        "if __name__ == '__main__':\n"
        "    with process_pool(2) as mapped:\n"
        "        print(*set(mapped(pids, range(4))), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
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


# Engines: the same bytes whoever packs


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "hr", {"coal": 4, "sandstone": 5})


def run_build(tmp_path, *options, launcher=(sys.executable, "-W", "error"), **environment):
    out = tmp_path / "out"
    command = [
        *launcher,
        "shards/build.py",
        tmp_path / "hr",
        out,
        "--tile",
        "80",
        "--crop",
        "32",
        "--samples-per-shard",
        "3",
        *options,
    ]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])} | environment,
    )
    if done.returncode == 0:
        build(tmp_path / "hr", tmp_path / "alone", TINY)
        assert digests(out) == digests(tmp_path / "alone")
    assert not (tmp_path / "out.building").exists() and "Traceback" not in done.stderr, done.stderr
    return done


def test_dask_packs_on_this_machine(tmp_path, source):
    pytest.importorskip("distributed")
    done = run_build(tmp_path, "--executor", "dask")
    assert (done.returncode, done.stderr) == (0, "")


def test_dask_packs_on_a_cluster(tmp_path, source):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        done = run_build(tmp_path, "--executor", f"dask:{cluster.scheduler_address}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fault_found_by_dask_is_told_like_any_other(tmp_path, source):
    pytest.importorskip("distributed")
    image = source / "coal" / "slice_1.png"
    image.write_bytes(image.read_bytes()[:500])
    done = run_build(tmp_path, "--executor", "dask")
    assert done.returncode == 1 and "error: 1 fault found" in done.stderr and str(image) in done.stderr


@pytest.mark.slow
def test_a_dask_that_loses_its_workers_says_so_and_the_build_goes_on_later(tmp_path, source):
    pytest.importorskip("distributed")
    (tmp_path / "dying.py").write_text(DYING)
    done = subprocess.run(
        [sys.executable, tmp_path / "dying.py", source, tmp_path / "out"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}{os.pathsep}{tmp_path}"},
    )
    assert (
        done.returncode == 1
        and "error: executor=dask has lost workers; start the same command again" in done.stderr
    )
    assert build(source, tmp_path / "out", TINY).notes == [
        "an interrupted build had packed 4 of 9 images already"
    ]


DYING = """
import os
from conftest import TINY
from srgan_dist.packing.build import build
from srgan_dist.packing.pack import pack
from srgan_dist.utils.errors import cli_errors
from srgan_dist.utils.executors import workers
import sys

def sometimes(job):
    if job.source.file == "sandstone/slice_0.png":
        os._exit(1)
    return pack(job)

if __name__ == "__main__":
    with cli_errors(), workers("dask") as run:
        build(sys.argv[1], sys.argv[2], TINY, run=lambda work, jobs: run(sometimes if work is pack else work, jobs))
"""


@pytest.mark.parametrize(
    "launch",
    [("-n", "3", sys.executable, "-W", "error"), ("-n", "3", sys.executable, "-m", "mpi4py.futures")],
    ids=["script", "module"],
)
def test_mpi_packs_with_all_processes_of_the_launch(tmp_path, source, launch):
    done = run_build(tmp_path, "--executor", "mpi", launcher=(mpiexec(), *launch))
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("written in") == 1


def test_a_fault_found_under_mpi_ends_all_processes(tmp_path, source):
    (source / "coal" / "slice_1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run_build(tmp_path, "--executor", "mpi", launcher=(mpiexec(), "-n", "3", sys.executable))
    assert done.returncode == 1 and done.stderr.count("error: 1 fault found") == 1


def test_mpi_without_a_launch_says_how(tmp_path, source):
    mpiexec()
    done = run_build(tmp_path, "--executor", "mpi")
    assert done.returncode == 1 and "executor=mpi needs two processes or more" in done.stderr


def mpiexec():
    """Return the launcher beside this Python, or skip."""
    pytest.importorskip("mpi4py")
    path = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
    return path or pytest.skip("no mpiexec")


def test_any_executor_packs(tmp_path, source):
    (tmp_path / "mine.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\nthree = lambda: ThreadPoolExecutor(3)\nlisted = list\n"
    )
    done = run_build(tmp_path, "--executor", "mine:three")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "executor, words",
    [
        ("proceses", "executor=proceses must be processes, dask, mpi, dask:ADDRESS or MODULE:FACTORY"),
        (
            "nowhere:factory",
            "executor=nowhere:factory cannot be made .No module named 'nowhere'.; MODULE must be importable",
        ),
        ("os:factory", "executor=os:factory cannot be made .module 'os' has no attribute 'factory'"),
        ("builtins:list", "executor=builtins:list gives list, which is no Executor of concurrent.futures"),
        (
            "dask:nonsense://1",
            "executor=dask:nonsense://1 has no scheduler and workers that answer .*start them with: dask scheduler",
        ),
    ],
)
def test_executors_that_cannot_be_had(executor, words):
    if executor.startswith("dask"):
        pytest.importorskip("distributed")
    with pytest.raises(UserError, match=words):
        with workers(executor):
            pass


@pytest.mark.parametrize("name, package", [("dask", "distributed"), ("mpi", "mpi4py mpich")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    for module in ("distributed", "mpi4py.futures"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(
        UserError, match=f"executor={name} cannot be loaded .*; install it with: pip install {package}"
    ):
        with workers(name):
            pass


def test_jobs_go_with_processes_only():
    with pytest.raises(
        UserError,
        match="jobs=4 goes with executor=processes only: dask has workers of its own; leave out --jobs",
    ):
        with workers("dask", 4):
            pass


@pytest.mark.parametrize(
    "jobs, count, alone", [(1, 300, True), (None, 3, True), (2, 3, False), (None, 300, False)]
)
def test_processes_are_started_for_many_items_or_when_asked_for(jobs, count, alone):
    with workers("processes", jobs) as run:
        assert (set(run(pids, range(count))) == {os.getpid()}) == (alone or usable_cores() == 1)


def test_what_has_not_begun_when_a_caller_gives_up_never_does(tmp_path):
    with pytest.raises(KeyError), process_pool(2) as run:
        for number, _ in enumerate(run(touch, [tmp_path / str(i) for i in range(200)])):
            if number == 2:
                raise KeyError
    assert 3 <= len(list(tmp_path.iterdir())) < 100


def touch(path):
    time.sleep(0.01)
    path.touch()
