"""The process group of a training: its start, messages between hosts, the end of all on an error of one.

Messages between hosts use gloo, on GPUs too: over NCCL the host would wait for the whole queue of its GPU.
"""

import contextlib
import os
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed
from accelerate import PartialState

from srgan_dist.runtime.launch_variables import launch_number, launched_ranks
from srgan_dist.utils.errors import TrainingStopped, UserError, report
from srgan_dist.utils.progress import wait_explained

POLL_SECONDS = 2.0  # between two checks whether another rank has failed
GRACE_SECONDS = 5.0  # for a rank to end by an error of its own, which gloo raises; then it is killed
CLOSING_SECONDS = 40.0  # for a failed rank to close its records, and for any to finish writing a checkpoint


def join(cpu, timeout_minutes):
    """Form the group of all ranks that a launcher has started; returns the PartialState.

    Raises UserError where the variables of the launcher are wrong.
    """
    timeout = timedelta(minutes=timeout_minutes)
    ranks = launched_ranks()
    if ranks == 1:
        return _join(cpu, timeout)
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    with wait_explained(f"rank {launch_number('RANK', 0)}", f"the others of {ranks} ranks", address):
        return _join(cpu, timeout)


def _join(cpu, timeout):
    if not cpu and torch.cuda.is_available() and launch_number("WORLD_SIZE", 1) > 1:
        torch.cuda.set_device(launch_number("LOCAL_RANK", 0))
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    return PartialState(cpu=cpu, timeout=timeout)


def _is_single_process():
    return not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1


def max_over_ranks(values):
    """Return, on every rank, the elementwise maximum over all ranks of a list of floats."""
    tensor = torch.tensor([*values], dtype=torch.float64)
    if not _is_single_process():
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


def from_rank_zero(value):
    """Return, on every rank, the number of rank 0."""
    if _is_single_process():
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    torch.distributed.broadcast(tensor, 0)
    return tensor.item()


def gather_lists(items):
    """Return, on every rank, the concatenated lists of all ranks."""
    if _is_single_process():
        return list(items)
    lists = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, list(items))
    return [item for each in lists for item in each]


def barrier():
    """Wait for every rank."""
    max_over_ranks([0.0])


class _SingleProcess:
    """The group of one process: its command reports an error."""

    def failed(self, error):
        """There is no other rank to notify."""


class _Peers:
    """Notifies the other ranks of an error of this one, and ends this process when one of them has failed.

    NCCL would let a rank wait for a dead one until its timeout, and destroying the group after an error may
    block for ever (pytorch issue 141510). So a failed rank reports its error and exits at once.
    """

    def __init__(self):
        self.rank, self.code = torch.distributed.get_rank(), None
        self.busy = lambda: False  # whether this rank is writing a checkpoint
        self.remote_failure = None  # message of the first rank that failed
        self.store_of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address, port = os.environ["MASTER_ADDR"], launch_number("MASTER_PORT", None)
        # A separate connection to the store of the group, which a launcher may keep over restarts
        self.store = torch.distributed.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
        self.key = f"srgan_dist/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self.thread.start()

    def failed(self, error):
        """Report an error of this rank, once, and notify the others; returns its exit code.

        An error that follows from the failure of another rank is reported as that failure.
        """
        if self.code is None:
            own = isinstance(error, (UserError, OSError, KeyboardInterrupt))
            cause = None if own else self._failure_of_another()
            self.code = report(UserError(f"ended, because {cause}") if cause else error)
            message = (str(error) or type(error).__name__).splitlines()[0]
            with contextlib.suppress(RuntimeError):
                self.store.compare_set(self.key, "", f"rank {self.rank} failed: {message:.300}")
        return self.code

    def _failure_of_another(self):
        if self.remote_failure is None:
            try:
                if self.store.check([self.key]):
                    self.remote_failure = self.store.get(self.key).decode(errors="replace")
            except RuntimeError:  # the store is gone; without a launcher rank 0 kept it
                # Ranks whose launcher is gone are alive: they save and end by themselves (parent_death.py)
                self.remote_failure = None if self.store_of_launcher else "rank 0 is gone"
        return self.remote_failure

    def _watch(self):
        while not self.finished.wait(POLL_SECONDS):
            if cause := self._failure_of_another():
                start = time.monotonic()
                while time.monotonic() - start < self._grace_seconds():
                    if self.finished.wait(0.1):
                        return
                leave(self.code or report(UserError(f"ended, because {cause}")))

    def _grace_seconds(self):
        return CLOSING_SECONDS if self.code is not None or self.busy() else GRACE_SECONDS


@contextlib.contextmanager
def end_all_ranks_on_error():
    """Where one rank leaves this block by an error, all ranks exit with code 1 within seconds.

    Yields an object whose failed(error) reports an error before the block is left.
    """
    if _is_single_process():
        yield _SingleProcess()
        return
    peers = _Peers()
    try:
        yield peers
    except TrainingStopped:
        raise
    except BaseException as error:
        code = peers.failed(error)
        if peers.rank == 0:
            time.sleep(1.5 * POLL_SECONDS)  # this process may keep the store, which the others read first
        leave(code)
    finally:
        peers.finished.set()
        peers.thread.join(1.0)  # the store may go before an answer that it still waits for


def leave(code):
    """End this process without an orderly exit, in which NCCL may wait for dead ranks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
