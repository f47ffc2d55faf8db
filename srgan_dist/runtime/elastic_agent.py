"""torchrun's launcher, with an agent that lets a training stop and resume (see ranks.py)."""

import os
import signal
import sys
from pathlib import Path

import torch.distributed
from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api

from srgan_dist.runtime.parent_death import FROM_LAUNCHER
from srgan_dist.utils.errors import ENDED, STOPPED

DEFAULTS = ["--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1"]
if "--shutdown-timeout" in run.get_args_parser().format_help():  # not in PyTorch 2.10
    DEFAULTS.append("--shutdown-timeout=150")


class Stopped(Exception):
    """The ranks were asked to stop, and did."""


class Agent(LocalElasticAgent):
    """Supervises the ranks of one node; does not restart them after a stop."""

    def _shutdown(self, death_sig=None, **_):
        """Stop the ranks: with the signal that this process received, first or while it waited for them, else
        with FROM_LAUNCHER, which they do not take for a user's request.
        """
        if death_sig is None:
            cause = sys.exc_info()[1]
            death_sig = cause.sigval if isinstance(cause, SignalException) else FROM_LAUNCHER
        timeout = {"timeout": self._shutdown_timeout} if hasattr(self, "_shutdown_timeout") else {}
        super()._shutdown(death_sig, **timeout)

    def _restart_workers(self, worker_group):
        if ended_with(STOPPED):
            raise Stopped
        super()._restart_workers(worker_group)


def ended_with(code):
    """Return whether a rank of this node has ended with an exit code, 0 or STOPPED."""
    return (Path(os.environ[ENDED]) / str(code)).exists()


def run_ranks(argv):
    """Run torchrun with its arguments; returns (exit code, error that nobody has printed yet or None)."""
    arguments = run.parse_args([*DEFAULTS, *argv])
    api.LocalElasticAgent = Agent
    try:
        run.run(arguments)
    except Stopped:
        return STOPPED, None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if codes == {STOPPED}:
            return STOPPED, None
        # A rank that exits with 1 has printed its error; the agent then ends the others
        return 1, None if 1 in codes and codes <= {1, -signal.SIGTERM} else error
    except SignalException as ended:
        return 0 if ended_with(0) else 128 + ended.sigval, None
    except (RendezvousError, torch.distributed.DistError) as error:
        return 1, (
            "error: the launchers have lost each other: no answer at"
            f" --rdzv_endpoint={arguments.rdzv_endpoint} ({error}). Start them all again; the training"
            " continues from its last checkpoint"
        )
    return 0, None
