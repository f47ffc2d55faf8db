"""What a rank does before all else, while the libraries that take seconds to import are not there yet."""

import ctypes
import os
import signal
import sys

from srgan_dist.errors import STOPPED, STOPPED_FILE

PR_SET_PDEATHSIG = 1  # of prctl(2)
LAUNCHER_DIES = getattr(signal, "SIGRTMIN", None)  # a signal that nobody else sends


def end_with_launcher():
    """Have the system send LAUNCHER_DIES when the launcher of this process dies, so that no rank is left alone (Linux).

    accelerate launch and torchrun can be killed without a word to their ranks. Until the training has its handlers the
    signal ends the process.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, LAUNCHER_DIES)


def end_if_stopped():
    """End this process where launch/ranks.py restarts a training that was asked to stop, and did: it stays stopped."""
    stopped = os.environ.get(STOPPED_FILE)
    if stopped and os.path.exists(stopped):
        sys.exit(STOPPED)
