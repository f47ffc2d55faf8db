"""Signals that ask a process to end: handlers for a block of code, and an end at once at the second one."""

import contextlib
import os
import signal
import socket
import threading
import time

SIGHUP, SIGUSR1 = (getattr(signal, name, None) for name in ("SIGHUP", "SIGUSR1"))  # not on Windows
END_SIGNALS = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, SIGHUP)))
USER_SIGNALS = tuple(filter(None, (*END_SIGNALS, SIGUSR1)))  # of a user, a terminal or a scheduler
ONE_EVENT_SECONDS = 2.0  # signals within them count once: a held Ctrl-C, one that a launcher passes on too
UNHEARD_SECONDS = 10.0  # for the main thread to come back from a library


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, which end a command that then cleans up."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.number = number


def is_ignored(number):
    """Return whether a signal is ignored, as SIGHUP is under nohup."""
    return signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def deferred(numbers):
    """Call the handlers of those signals that come within the block when it has ended; in the main thread."""
    came = []
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


class HandledSignals:
    """Calls `handle(number)` for signals within its `with` block, and ends the process at a second SIGTERM or
    SIGINT, ONE_EVENT_SECONDS after the first signal or later, with the exit code of a shell (128 + number).

    Python calls handlers in the main thread only, between two of its steps; the second signal works even
    where that thread waits in a library. In another thread the block handles nothing. A block around this one
    counts the signals of this one as its own.
    """

    around = None  # the block that is active

    def __init__(self, numbers):
        self.numbers, self.first, self.heard = numbers, None, False

    def handle(self, number):
        """Act on a signal, in the main thread."""
        raise NotImplementedError

    def at_first(self, number):
        """Act on the first signal, in a thread, even while the main thread waits in a library."""

    def __enter__(self):
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:
            self.received, self.sent = socket.socketpair()
            self.sent.setblocking(False)
            self.wakeup = signal.set_wakeup_fd(self.sent.fileno(), warn_on_full_buffer=False)
            self.handlers = {number: signal.signal(number, self._handle) for number in self.numbers}
            self.around, HandledSignals.around = HandledSignals.around, self
            self.watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
            self.watcher.start()
        return self

    def __exit__(self, *_):
        if self.active:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self.wakeup)
            self.sent.close()
            self.watcher.join()
            self.received.close()
            HandledSignals.around = self.around
            if self.around and self.heard:
                self.around.first, self.around.heard = self.around.first or self.first, True

    def _handle(self, number, frame):
        self.heard = True
        self.handle(number)

    def _watch(self):
        """Read the number of each signal."""
        while numbers := self.received.recv(64):
            for number in filter(USER_SIGNALS.__contains__, numbers):
                if self.first is None:
                    self.first = time.monotonic()
                    self.at_first(number)
                elif number in (signal.SIGTERM, signal.SIGINT) and (
                    time.monotonic() - self.first >= ONE_EVENT_SECONDS
                ):
                    os._exit(128 + number)


class EndSignals(HandledSignals):
    """Raises Interrupted at the first of END_SIGNALS that is not ignored; the block is then left by cleaning
    up, which no later one within ONE_EVENT_SECONDS disturbs. A process that does not come back from a library
    within UNHEARD_SECONDS is ended.
    """

    def __init__(self):
        super().__init__([number for number in END_SIGNALS if not is_ignored(number)])
        self.raised = None  # the Interrupted; libraries may turn it into an error of theirs

    def __exit__(self, *_):
        if not self.heard:  # else the process is ending, and the signals stay handled
            super().__exit__()

    def _handle(self, number, frame):
        first, self.heard = not self.heard, True
        if first:
            self.raised = Interrupted(number)
            raise self.raised

    def at_first(self, number):
        timer = threading.Timer(UNHEARD_SECONDS, lambda: self.heard or os._exit(128 + number))
        timer.daemon = True
        timer.start()
