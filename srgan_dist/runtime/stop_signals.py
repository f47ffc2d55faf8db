"""Signals that ask a training to stop: every rank saves after the same update, then exits with code 85."""

import os
import signal
import socket
import sys
import threading
import time

from srgan_dist.runtime.parent_death import FROM_LAUNCHER

SIGUSR1 = getattr(signal, "SIGUSR1", None)  # not on Windows
STOP_SIGNALS = tuple(filter(None, (signal.SIGTERM, SIGUSR1, signal.SIGINT)))
INTERRUPTED = 1  # for FROM_LAUNCHER; below the numbers of STOP_SIGNALS: a user's request has precedence
ONE_EVENT_SECONDS = 2.0  # signals within them count once: torchrun passes on the Ctrl-C of its ranks


class StopSignals:
    """Records, within its `with` block, the signals that ask this process to stop.

    A second SIGTERM or SIGINT ends the process at once, with the exit code of a shell (128 + its number),
    even where it waits for another rank. SIGUSR1 never does: schedulers may send it after the others.
    FROM_LAUNCHER (`parent_death.py`) stops the training too, as INTERRUPTED. Outside the main thread nothing
    is recorded: Python handles signals there only.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.number = 0  # highest number of the received signals, or INTERRUPTED; 0: none

    def __enter__(self):
        self.handles = threading.current_thread() is threading.main_thread()
        if self.handles:
            self.received, self.sent = socket.socketpair()
            self.sent.setblocking(False)
            self.wakeup = signal.set_wakeup_fd(self.sent.fileno(), warn_on_full_buffer=False)
            self.handlers = {
                number: signal.signal(number, self._record)
                for number in (*STOP_SIGNALS, FROM_LAUNCHER)
                if number
            }
            self.watcher = threading.Thread(target=self._exit_at_second_signal, name="signals", daemon=True)
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

    def _record(self, number, frame):
        self.number = max(self.number, INTERRUPTED if number == FROM_LAUNCHER else number)

    def _exit_at_second_signal(self):
        """Read the number of each signal, even while the main thread waits for another rank."""
        first = None
        while numbers := self.received.recv(64):
            for number in filter(STOP_SIGNALS.__contains__, numbers):
                if first is None:
                    first = time.monotonic()
                    self._announce(signal.Signals(number).name)
                elif number != SIGUSR1 and time.monotonic() - first >= ONE_EVENT_SECONDS:
                    os._exit(128 + number)

    def _announce(self, name):
        if self.accelerator.is_main_process:
            text = (
                "the training saves after this update and stops; a second SIGTERM or Ctrl-C ends it at once"
            )
            print(f"{name}: {text} at once", file=sys.stderr, flush=True)
