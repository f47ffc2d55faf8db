"""The ranks of a training as a group: how it is formed, messages between their hosts, and an error of one that ends all.

Messages between hosts travel over gloo, on GPUs too: over NCCL the host would wait for all that its GPU has yet to do.
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

from srgan_dist.utils.errors import TrainingStopped, UserError, report

POLL_SECONDS = 2.0  # between two looks whether another rank has failed
GRACE_SECONDS = (
    5.0  # in which a rank may end by an error of its own, as over gloo it meets one; then it is ended
)
CLOSING_SECONDS = (
    40.0  # in which a rank that ends so may close its records, and any write the checkpoint that it has begun
)


def join(cpu, timeout_minutes):
    """Form the group of all ranks that a launcher has started, if it has started several."""
    timeout = timedelta(minutes=timeout_minutes)
    if not cpu and torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    return PartialState(cpu=cpu, timeout=timeout)


def _alone():
    return not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1


def max_over_ranks(values):
    """Return, on every rank, the largest of all ranks' numbers, place by place: a list of floats -> a list of floats."""
    tensor = torch.tensor([*values], dtype=torch.float64)
    if not _alone():
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


def from_rank_zero(value):
    """Return, on every rank, the number that rank 0 has."""
    if _alone():
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    torch.distributed.broadcast(tensor, 0)
    return tensor.item()


def gather_lists(items):
    """Return, on every rank, the lists of all ranks behind one another."""
    if _alone():
        return list(items)
    lists = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, list(items))
    return [item for each in lists for item in each]


def barrier():
    """Wait until every rank is here."""
    max_over_ranks([0.0])


class _Alone:
    """The group of a process that has no others."""

    def failed(self, error):
        """Nobody else has to know; the command reports the error."""


class _Peers:
    """Tells the other ranks of an error here, and ends this process when one of them has failed.

    NCCL would let a rank wait for a dead one until its timeout, and where an error destroys the group in good order that
    may wait for ever (pytorch issue 141510). So what has failed is left without ceremony, and said at once.
    """

    def __init__(self):
        self.rank, self.code = torch.distributed.get_rank(), None
        self.busy = lambda: False  # whether this rank is writing a checkpoint
        self.elsewhere = None  # what failed on another rank
        self.store_of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # a connection of its own to the store of the group, which a launcher may keep over restarts
        self.store = torch.distributed.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
        self.key = f"srgan_dist/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self.over = threading.Event()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def failed(self, error):
        """Say an error of this rank, once, and let the others know; one that a failure elsewhere has brought about is said so.

        Returns the exit code for it.
        """
        if self.code is None:
            elsewhere = (
                None
                if isinstance(error, (UserError, OSError, KeyboardInterrupt))
                else self._failure_elsewhere()
            )
            self.code = report(UserError(f"ended, because {elsewhere}") if elsewhere else error)
            words = (str(error) or type(error).__name__).splitlines()[0]
            with contextlib.suppress(RuntimeError):
                self.store.compare_set(self.key, "", f"rank {self.rank} failed: {words:.300}")
        return self.code

    def _failure_elsewhere(self):
        if self.elsewhere is None:
            try:
                if self.store.check([self.key]):
                    self.elsewhere = self.store.get(self.key).decode(errors="replace")
            except RuntimeError:  # the store is gone; that of a launcher says nothing of the ranks, which save and end (launched.py)
                self.elsewhere = None if self.store_of_launcher else "rank 0 is gone"
        return self.elsewhere

    def _watch(self):
        while not self.over.wait(POLL_SECONDS):
            if words := self._failure_elsewhere():
                began = time.monotonic()
                while time.monotonic() - began < (
                    CLOSING_SECONDS if self.code is not None or self.busy() else GRACE_SECONDS
                ):
                    if self.over.wait(0.1):
                        return
                leave(self.code or report(UserError(f"ended, because {words}")))


@contextlib.contextmanager
def end_all_ranks_on_error():
    """Where one rank leaves this block by an error, all ranks end with exit code 1 within seconds; yields what tells them."""
    if _alone():
        yield _Alone()
        return
    peers = _Peers()
    try:
        yield peers
    except TrainingStopped:
        raise
    except BaseException as error:
        code = peers.failed(error)
        if peers.rank == 0:
            time.sleep(1.5 * POLL_SECONDS)  # the store may be in this process: the others look first
        leave(code)
    finally:
        peers.over.set()


def leave(code):
    """End this process without the good order of an exit, in which NCCL may wait for ranks that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
