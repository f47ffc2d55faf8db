"""Signals that ask a training to stop: every rank saves after the same update, then ends with exit code 85."""

import os
import signal
import socket
import sys
import threading
import time

from srgan_dist.runtime.parent_death import FROM_LAUNCHER

ASKING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
INTERRUPTED = (
    1  # in the place of a signal's number, and below those of ASKING: what somebody asks counts more
)
ONE_EVENT_SECONDS = (
    2.0  # within them signals are one: torchrun passes on Ctrl-C, which its ranks have seen themselves
)


class StopSignals:
    """Notes, from `with` to its end, the signals that ask this process to stop.

    A second SIGTERM or SIGINT ends the process at once, with the exit code of a shell (128 and its number), even where
    it waits for another rank. SIGUSR1 only ever asks: schedulers may send it after the others. FROM_LAUNCHER
    (`launched.py`) stops the training too, as INTERRUPTED.
    Outside the main thread of a process nothing is noted: Python handles signals there only.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.number = 0  # the highest of a signal that this rank was sent, or INTERRUPTED; 0: none

    def __enter__(self):
        self.handles = threading.current_thread() is threading.main_thread()
        if self.handles:
            self.received, self.sent = socket.socketpair()
            self.sent.setblocking(False)
            self.wakeup = signal.set_wakeup_fd(self.sent.fileno(), warn_on_full_buffer=False)
            self.handlers = {
                number: signal.signal(number, self._note) for number in (*ASKING, FROM_LAUNCHER) if number
            }
            self.watcher = threading.Thread(target=self._end_at_the_second, name="signals", daemon=True)
            self.watcher.start()
        return self

    def __exit__(self, *_):
        if self.handles:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self.wakeup)
            self.sent.close()
            self.watcher.join()
            self.received.close()

    def _note(self, number, frame):
        self.number = max(self.number, INTERRUPTED if number == FROM_LAUNCHER else number)

    def _end_at_the_second(self):
        """Read what Python writes for each signal, also while the main thread waits for another rank."""
        first = None
        while numbers := self.received.recv(64):
            for number in filter(ASKING.__contains__, numbers):
                if first is None:
                    first = time.monotonic()
                    if self.accelerator.is_main_process:
                        print(
                            f"{signal.Signals(number).name}: the training saves after this update and stops; a second"
                            " SIGTERM or Ctrl-C ends it at once",
                            file=sys.stderr,
                            flush=True,
                        )
                elif (
                    number != getattr(signal, "SIGUSR1", None)
                    and time.monotonic() - first >= ONE_EVENT_SECONDS
                ):
                    os._exit(128 + number)
