"""Executors that run the jobs of a command: this process, processes of this machine, Dask, MPI, or any other.

All of them are executors of concurrent.futures. Processes import this module and the command's own script
before they begin, so neither imports PyTorch.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.signals import END_SIGNALS

CLEANING_SECONDS = 1.0  # for a job that SIGTERM ends
MANY = 200  # items; below that, starting processes takes longer than they save


class WorkersLost(UserError):
    """Workers have died; the same command may go on with the work."""


def usable_cores():
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def workers(executor="processes", jobs=None):
    """Yield run(function, items), which yields the results in order, as `map` does.

    executor: "processes" (`jobs` of them, by default one per core for many items), "dask", "dask:ADDRESS",
    "mpi", or "MODULE:FACTORY" for any other. Yields None in a process that has only worked for another one.
    """
    if executor == "processes":
        with contextlib.ExitStack() as stack:
            yield _pool_on_demand(stack, jobs)
        return
    if jobs is not None:
        raise UserError(
            f"jobs={jobs} goes with executor=processes only: {executor} has workers of its own;"
            " leave out --jobs"
        )
    name, _, address = executor.partition(":")
    lost = f"executor={executor} has lost workers; start the same command again"
    factory = _dask if name == "dask" else _mpi if executor == "mpi" else _custom
    with factory(executor, address) as (pool, *errors):
        if pool is None:
            yield None
            return
        with _ordered_map(pool, lost, *errors) as run:
            yield run


def _pool_on_demand(stack, jobs):
    """Return a function like `map` that starts processes with the first call that needs them."""
    pool = None

    def run(function, items):
        nonlocal pool
        if pool is None:
            count = jobs or (usable_cores() if len(items) >= MANY else 1)
            if count == 1:
                return map(function, items)
            pool = stack.enter_context(process_pool(count))
        return pool(function, items)

    return run


@contextlib.contextmanager
def process_pool(count):
    """Yield a function like `map` that works in `count` processes of one thread each; for 1, `map` itself."""
    if count == 1:
        yield map
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes already use every core
    lost = f"one of {count} processes was killed, perhaps for want of memory; try again with fewer --jobs"
    try:
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _obey_parent)
    except (OSError, ImportError, NotImplementedError) as error:
        raise UserError(
            f"--jobs {count}: processes need semaphores in /dev/shm, which cannot be made ({error}); mount a"
            " tmpfs there, or give --jobs 1"
        ) from None
    with pool, _ordered_map(pool, lost) as run:
        yield lambda function, *items: run(functools.partial(_job, function), *items)


_ending = threading.Event()  # SIGTERM has come to this process of a pool


def _job(function, *items):
    """Do a job in a process of a pool, which SIGTERM ends: as soon as the job has cleaned up.

    The pool's own loop would take the end of a job for its result, and another job from its queue.
    """
    try:
        if not _ending.is_set():
            return function(*items)
    finally:
        if _ending.is_set():
            os._exit(128 + signal.SIGTERM)


def _obey_parent():
    """Leave Ctrl-C and SIGHUP to the process that started this one, and end with it, however it ends.
    SIGTERM, with which its pool ends this process too, lets the job clean up.
    """
    for number in set(END_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_soon(number, frame):
    """End the job, and the process with it; at the latest when CLEANING_SECONDS are over."""
    _ending.set()
    timer = threading.Timer(CLEANING_SECONDS, os._exit, [128 + number])
    timer.daemon = True
    timer.start()
    sys.exit(128 + number)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _ordered_map(pool, lost, *errors):
    """Yield a function like `map` that works in an executor; the end of the block cancels waiting jobs.

    errors: exceptions, besides those of concurrent.futures, that the executor raises when workers have died.
    All of them become WorkersLost(lost).
    """

    def results(function, *items):
        try:
            with _signals_blocked():  # processes are started by this call
                ordered = Executor.map(pool, function, *items)  # of any pool: in order, cancelled when closed
            yield from ordered
        except (BrokenExecutor, CancelledError, *errors):
            raise WorkersLost(lost) from None

    with contextlib.ExitStack() as opened:
        yield lambda *call: opened.enter_context(contextlib.closing(results(*call)))


@contextlib.contextmanager
def _signals_blocked():
    """Delay Ctrl-C and the like to the end of the block; processes that are started in it see them only once
    they are set up.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Factories: each yields an executor and the exceptions that it raises when its workers have died


def _raise_lost_first(kind, error, trace):
    """Raise the loss of workers where the end of their cluster failed because of it."""
    while error is not None:
        if isinstance(error, WorkersLost):
            raise error from None
        error = error.__context__


@contextlib.contextmanager
def _dask(name, address):
    """Workers of the Dask cluster at `address`, or without one of a cluster that is made on this machine."""
    distributed = _import("distributed", name, "distributed")
    any_port = {"dashboard_address": "127.0.0.1:0"}  # its own, 8787, may be another cluster's
    with contextlib.ExitStack() as stack:
        stack.push(_raise_lost_first)
        cluster = address or stack.enter_context(
            distributed.LocalCluster(
                n_workers=usable_cores(),
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs=any_port,
            )
        )
        try:
            client = stack.enter_context(distributed.Client(cluster))
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"executor={name} has no scheduler and workers that answer ({error}); start them with:"
                " dask scheduler, and on every machine: dask worker ADDRESS"
            ) from None
        pool = stack.enter_context(client.get_executor(pure=False))
        yield pool, distributed.KilledWorker, distributed.comm.CommClosedError


@contextlib.contextmanager
def _mpi(name, _):
    """All processes of an MPI launch: the first one leads, the others work."""
    futures, mpi = (_import(f"mpi4py.{part}", name, "mpi4py mpich") for part in ("futures", "MPI"))
    if mpi.COMM_WORLD.Get_size() < 2:
        raise UserError(
            "executor=mpi needs two processes or more, one to lead and the others to work: mpiexec -n 9"
            " python ..."
        )
    with futures.MPICommExecutor() as pool:
        yield (pool,)


@contextlib.contextmanager
def _custom(name, factory):
    """The executor that FACTORY() of a MODULE:FACTORY returns."""
    module, colon, _ = name.partition(":")
    if not colon:
        raise UserError(f"executor={name} must be processes, dask, mpi, dask:ADDRESS or MODULE:FACTORY")
    try:
        pool = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"executor={name} cannot be made ({error}); MODULE must be importable (set PYTHONPATH) and"
            " FACTORY() return an Executor of concurrent.futures"
        ) from None
    if not isinstance(pool, Executor):
        raise UserError(
            f"executor={name} gives {type(pool).__name__}, which is no Executor of concurrent.futures"
        )
    with pool:
        yield (pool,)


def _import(module, executor, packages):
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where there is no MPI library
        raise UserError(
            f"executor={executor} cannot be loaded ({error}); install it with: pip install {packages}"
        ) from None
