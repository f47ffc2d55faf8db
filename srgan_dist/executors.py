"""Who does the work of a command: this process, or others of this machine.

Processes import this module and the command's own script before they begin, so both leave PyTorch alone.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from srgan_dist.errors import UserError


class WorkersLost(UserError):
    """The work was cut short from outside; the same command may go on with it."""


def usable_cores():
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def process_pool(count):
    """Yield a function like `map` that works in `count` processes of one thread each; with one, `map` itself."""
    if count == 1:
        yield map
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes already use every core
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _obey_parent) as pool:
        try:
            yield partial(_mapped, pool, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # otherwise it would work through its queue first
            raise


def _mapped(pool, count, function, *items):
    try:
        yield from pool.map(function, *items)
    except BrokenProcessPool:
        raise WorkersLost(f"one of {count} processes was killed, perhaps for want of memory; try again with fewer --jobs") from None


def _obey_parent():
    """Leave Ctrl-C to the process that started this one, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
