"""torchrun's launcher, with an agent that lets a training stop and resume (see ranks.py)."""

import contextlib
import os
import sys

import torch.distributed
from torch.distributed import run
from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api

from srgan_dist.runtime.parent_death import FROM_LAUNCHER
from srgan_dist.utils.errors import RESTART, STOPPED
from srgan_dist.utils.progress import wait_explained
from srgan_dist.utils.signals import SIGHUP, USER_SIGNALS, deferred, is_ignored

UNDER_NOHUP = SIGHUP and is_ignored(SIGHUP)
DEFAULTS = [f"--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1{'' if UNDER_NOHUP else ',SIGHUP'}"]
if "--shutdown-timeout" in run.get_args_parser().format_help():  # not in PyTorch 2.10
    DEFAULTS.append("--shutdown-timeout=150")


class Stopped(Exception):
    """The ranks were asked to stop, and did."""


class Agent(LocalElasticAgent):
    """Supervises the ranks of one node; does not restart them after a stop."""

    ended = set()  # exit codes of all ranks that have ended
    joining = contextlib.ExitStack()  # the wait for other launchers, until the first ranks are started
    starting = contextlib.ExitStack()  # of ranks that are not known to the agent yet

    def _start_workers(self, worker_group):
        self.joining.close()
        with self.starting:
            return super()._start_workers(worker_group)

    def _shutdown(self, death_sig=None, **_):
        """Stop the ranks: with the signal that this process received, first or while it waited for them, else
        with FROM_LAUNCHER, which they do not take for a user's request.
        """
        if death_sig is None:
            cause = sys.exc_info()[1]
            death_sig = cause.sigval if isinstance(cause, SignalException) else FROM_LAUNCHER
        timeout = {"timeout": self._shutdown_timeout} if hasattr(self, "_shutdown_timeout") else {}
        self._note_ended()
        super()._shutdown(death_sig, **timeout)
        self._note_ended()

    def _restart_workers(self, worker_group):
        self._note_ended()
        if STOPPED in self.ended:
            raise Stopped
        super()._restart_workers(worker_group)

    def _note_ended(self):
        if self._pcontext:
            handlers = self._pcontext.subprocess_handlers.values()
            self.ended.update(handler.proc.poll() for handler in handlers)


class Ranks(SubprocessContext):
    """The processes of the ranks; a signal that comes while they are started is handled when the agent knows
    them. It would end the launcher without them.
    """

    def _start(self):
        Agent.starting.enter_context(deferred(USER_SIGNALS))
        super()._start()


def run_ranks(argv):
    """Run torchrun with its arguments; returns (exit code, error that nobody has printed yet or None)."""
    arguments = run.parse_args([*DEFAULTS, *argv])
    if (arguments.log_dir, arguments.redirects, arguments.tee) == (None, "0", "0"):
        arguments.log_dir = os.devnull  # torchrun would leave an empty folder in TMPDIR at every start
    api.LocalElasticAgent, multiprocessing.SubprocessContext = Agent, Ranks
    if not arguments.standalone:
        others = f"the launchers of --nnodes={arguments.nnodes}"
        Agent.joining.enter_context(wait_explained("ranks.py", others, _endpoint(arguments)))
    with Agent.joining:
        code, message = _run(arguments)
    return (STOPPED, None) if STOPPED in Agent.ended else (code, message)


def _endpoint(arguments):
    return arguments.rdzv_endpoint or f"{arguments.master_addr}:{arguments.master_port}"


def _run(arguments):
    try:
        run.run(arguments)
    except Stopped:
        return STOPPED, None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if codes <= {STOPPED, RESTART}:
            return STOPPED, None
        # A rank that exits with 1 has printed its error; the agent then ends the others
        return 1, None if 1 in codes else error
    except SignalException as ended:
        return 0 if 0 in Agent.ended else 128 + ended.sigval, None
    except (RendezvousError, torch.distributed.DistError) as error:
        where, words = _endpoint(arguments), str(error)
        if "EADDRINUSE" in words:
            return 1, f"error: {where} belongs to another program; give another port ({words})"
        return 1, (
            f"error: the launchers have lost each other: no answer at --rdzv_endpoint={where} ({words})."
            " Start them all again; the training continues from its last checkpoint"
        )
    return 0, None
