"""Signals that ask a training to stop: every rank saves after the same update, then exits with code 85."""

import signal
import sys

from srgan_dist.runtime.parent_death import FROM_LAUNCHER
from srgan_dist.utils.signals import SIGHUP, USER_SIGNALS, HandledSignals, is_ignored

INTERRUPTED = 0.5  # for FROM_LAUNCHER; below the numbers of signals: a user's request has precedence


class StopSignals(HandledSignals):
    """Records, within its `with` block, the signals that ask this process to stop: USER_SIGNALS (under nohup
    without SIGHUP), and as INTERRUPTED that of a launcher that died or restarts its ranks, FROM_LAUNCHER.

    A second SIGTERM or SIGINT ends the process at once, even where it waits for another rank. SIGUSR1 and
    SIGHUP never do: schedulers and shells may send them after the others.
    """

    def __init__(self, accelerator):
        ignored = SIGHUP if SIGHUP and is_ignored(SIGHUP) else None
        super().__init__({*USER_SIGNALS, FROM_LAUNCHER} - {ignored, None})
        self.accelerator = accelerator
        self.number = 0  # highest number of the received signals, or INTERRUPTED; 0: none

    def handle(self, number):
        self.number = max(self.number, INTERRUPTED if number == FROM_LAUNCHER else number)

    def at_first(self, number):
        if self.accelerator.is_main_process:
            text = (
                "the training saves after this update and stops; a second SIGTERM or Ctrl-C ends it at once"
            )
            print(f"{signal.Signals(number).name}: {text}", file=sys.stderr)
