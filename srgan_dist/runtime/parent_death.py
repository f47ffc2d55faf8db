"""Setup of a process before the imports that take seconds: death with its launcher, BLAS threads."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)
# A signal that nobody else sends: the launcher died, or restarts its ranks
FROM_LAUNCHER = getattr(signal, "SIGRTMIN", None)
LAUNCHER_PID = "SRGAN_DIST_LAUNCHER_PID"  # environment variable that ranks.py sets


def die_with_parent():
    """Have the system send FROM_LAUNCHER when the launcher of this process dies, so that no rank is orphaned
    (Linux).

    accelerate launch and torchrun can be killed without notifying their ranks. Until the training has
    installed its handlers the signal ends the process.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, FROM_LAUNCHER)
        if LAUNCHER_PID in os.environ and _has_ended(os.environ[LAUNCHER_PID]):  # before prctl
            sys.exit("error: the launcher of this process has died")


def use_one_blas_thread():
    """Keep NumPy's matrix products to one thread each: call this before NumPy is imported.

    The products are small. On two threads the packing of large images was no faster on a quiet machine, and
    beside two other programs it took up to five times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _has_ended(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"  # zombie or dead
    except (FileNotFoundError, ProcessLookupError):
        return True
