"""Who does the work of a command: this process, others of this machine, or the workers of an engine that exists already.

All of them are executors of concurrent.futures. Processes import this module and the command's own script before they
begin, so both leave PyTorch alone.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor

from srgan_dist.utils.errors import UserError

LOOK_SECONDS = 5.0  # after which a result that does not come makes one look at the others
MANY = 200  # items; below that, starting processes takes longer than they save


class WorkersLost(UserError):
    """The work was cut short from outside; the same command may go on with it."""


def usable_cores():
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def workers(executor="processes", jobs=None):
    """Yield run(function, items), which yields the results in order, as `map` does.

    executor: "processes" (`jobs` of them, by default one per core for many items), a name of ENGINES, "dask:ADDRESS", or
    "MODULE:FACTORY" for any other. Yields None in a process that has only worked for another one.
    """
    if executor == "processes":
        with contextlib.ExitStack() as stack:
            yield _started_when_needed(stack, jobs)
        return
    if jobs is not None:
        raise UserError(
            f"jobs={jobs} goes with executor=processes only: {executor} has workers of its own; leave out --jobs"
        )
    name, _, address = executor.partition(":")
    known = executor in ENGINES or name == "dask"
    with ENGINES[name](address) if known else _made_by_factory(executor) as (pool, *lost):
        if pool is None:
            yield None
            return
        with _in_order(
            pool, f"executor={executor} has lost workers; start the same command again", *lost
        ) as run:
            yield run


def _started_when_needed(stack, jobs):
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
    """Yield a function like `map` that works in `count` processes of one thread each; with one, `map` itself."""
    if count == 1:
        yield map
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes already use every core
    lost = f"one of {count} processes was killed, perhaps for want of memory; try again with fewer --jobs"
    with (
        ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _obey_parent) as pool,
        _in_order(pool, lost) as run,
    ):
        yield run


@contextlib.contextmanager
def _interrupts_held():
    """Let Ctrl-C wait for the end of the block; processes that are started in it never see one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_parent():
    """Leave Ctrl-C to the process that started this one, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _in_order(pool, message, *lost):
    """Yield a function like `map` that works in an executor; what has not begun by the end of the block never does.

    lost: what else the executor raises when workers are gone; all of this becomes WorkersLost with `message`.
    """
    opened = []

    def results(function, *items):
        try:
            with (
                _interrupts_held()
            ):  # processes are started here; Ctrl-C is not theirs, not even before they can say so
                futures = deque(pool.submit(function, *each) for each in zip(*items))
            try:
                while futures:
                    try:
                        result = futures[0].result(LOOK_SECONDS)
                    except TimeoutError:
                        if futures[0].done():
                            raise
                        _raise_if_lost(
                            futures, (BrokenExecutor, *lost)
                        )  # no worker is left that could ever finish it
                        continue
                    futures.popleft()
                    yield result
            finally:
                for future in futures:
                    future.cancel()
        except (BrokenExecutor, CancelledError, *lost):
            raise WorkersLost(message) from None

    def run(function, *items):
        opened.append(results(function, *items))
        return opened[-1]

    try:
        yield run
    finally:
        for each in opened:
            each.close()


def _raise_if_lost(futures, lost):
    for future in futures:
        if future.done() and isinstance(error := future.exception(), lost):
            raise error


# Engines: each yields an executor and what this raises when it has lost its workers


@contextlib.contextmanager
def _dask(address):
    """Workers of the Dask cluster at `address`, else of a cluster that is made on this machine."""
    distributed = _package("distributed", "dask", "distributed")
    here = {"n_workers": usable_cores(), "threads_per_worker": 1, "dashboard_address": None}
    with contextlib.ExitStack() as stack:
        cluster = address or stack.enter_context(distributed.LocalCluster(**here))
        try:
            client = stack.enter_context(distributed.Client(cluster))
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"executor=dask:{address} has no scheduler and workers that answer ({error}); start them with:"
                " dask scheduler, and on every machine: dask worker ADDRESS"
            ) from None
        pool = stack.enter_context(client.get_executor(pure=False))
        yield pool, distributed.KilledWorker, distributed.comm.CommClosedError


@contextlib.contextmanager
def _mpi(_):
    """All processes of an MPI launch: the first one leads, the others work."""
    futures, mpi = (_package(f"mpi4py.{part}", "mpi", "mpi4py mpich") for part in ("futures", "MPI"))
    if mpi.COMM_WORLD.Get_size() < 2:
        raise UserError(
            "executor=mpi needs two processes or more, one to lead and the others to work: mpiexec -n 9 python ..."
        )
    with futures.MPICommExecutor() as pool:
        yield (pool,)


@contextlib.contextmanager
def _made_by_factory(name):
    """Whatever FACTORY() of a MODULE:FACTORY returns."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(
            f"executor={name} must be processes, {', '.join(ENGINES)}, dask:ADDRESS or MODULE:FACTORY"
        )
    try:
        pool = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"executor={name} cannot be made ({error}); MODULE must be importable (set PYTHONPATH) and FACTORY()"
            " return an Executor of concurrent.futures"
        ) from None
    if not isinstance(pool, Executor):
        raise UserError(
            f"executor={name} gives {type(pool).__name__}, which is no Executor of concurrent.futures"
        )
    with pool:
        yield (pool,)


def _package(module, executor, packages):
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where there is no MPI library
        raise UserError(
            f"executor={executor} cannot be loaded ({error}); install it with: pip install {packages}"
        ) from None


ENGINES = {"dask": _dask, "mpi": _mpi}
