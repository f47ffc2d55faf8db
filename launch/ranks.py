"""torchrun for trainings that may be stopped: python launch/ranks.py --nproc_per_node 8 launch/train.py CONFIG

Takes torchrun's options. These things differ:

- SIGUSR1 is passed on too (torchrun would die of it), SIGHUP is not (so that nohup helps).
- Ranks have 150 s to save instead of 30 (--shutdown-timeout, where PyTorch knows it).
- Where all ranks saved and ended the exit code is their own, 85 (torchrun's would be 1). A training that was asked to stop
  stays stopped.
- --max-restarts works: by default restarted ranks find the addresses of the dead ones in the store that all attempts share
  (pytorch issue 135712). Ranks that the launcher stops to restart them, e.g. because a node came back, save first.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch.distributed
from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api

from srgan_dist.runtime.parent_death import FROM_LAUNCHER, LAUNCHER_PID
from srgan_dist.utils.errors import ENDED, STOPPED

DEFAULTS = ["--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1"]
if "--shutdown-timeout" in run.get_args_parser().format_help():  # not in PyTorch 2.10
    DEFAULTS.append("--shutdown-timeout=150")


class Stopped(Exception):
    """The ranks were asked to stop, and did."""


class Agent(LocalElasticAgent):
    """Looks after the ranks of one node; does not restart them after a stop."""

    def _shutdown(self, death_sig=None, **_):
        """Stop the ranks: with the signal that this process was sent, the first or another that came while it waited for them,
        else so that they do not take it for a wish.
        """
        if death_sig is None:
            asked = sys.exc_info()[1]
            death_sig = asked.sigval if isinstance(asked, SignalException) else FROM_LAUNCHER
        timeout = {"timeout": self._shutdown_timeout} if hasattr(self, "_shutdown_timeout") else {}
        super()._shutdown(death_sig, **timeout)

    def _restart_workers(self, worker_group):
        if ended_with(STOPPED):
            raise Stopped
        super()._restart_workers(worker_group)


def ended_with(code):
    return (Path(os.environ[ENDED]) / str(code)).exists()


def main():
    arguments = run.parse_args([*DEFAULTS, *sys.argv[1:]])
    api.LocalElasticAgent = Agent
    with tempfile.TemporaryDirectory(prefix="srgan_dist_ranks_") as folder:
        os.environ |= {ENDED: folder, LAUNCHER_PID: str(os.getpid())}
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        code, message = 0, None
        try:
            run.run(arguments)
        except Stopped:
            code = STOPPED
        except ChildFailedError as error:
            code = STOPPED if {failure.exitcode for failure in error.failures.values()} == {STOPPED} else 1
            message = (
                error if any(failure.exitcode != 1 for failure in error.failures.values()) else None
            )  # it has said why
        except SignalException as ended:
            code = 0 if ended_with(0) else 128 + ended.sigval
        except (RendezvousError, torch.distributed.DistError) as error:
            code = 1
            message = (
                f"error: the launchers have lost each other: no answer at --rdzv_endpoint={arguments.rdzv_endpoint}"
                f" ({error}). Start them all again; the training continues from its last checkpoint"
            )
        if ended_with(STOPPED):
            code = STOPPED
        if message and code != STOPPED:
            print(message, file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
