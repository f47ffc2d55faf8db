"""Errors that a user can fix, and how commands report them."""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from srgan_dist.utils.memory import is_out_of_memory
from srgan_dist.utils.output import masked, surviving_output
from srgan_dist.utils.signals import EndSignals

STOPPED = 85  # exit code, as HTCondor's examples have it; else 0 done, 1 error
RESTART = 86  # exit code of one that a launcher stopped, or its death: launch/ranks.py restarts it


class UserError(ValueError):
    """A fault of input, settings or files; the message names it and the way out. Others are bugs."""

    def __init__(self, *words):
        super().__init__(*[masked(word) if isinstance(word, str) else word for word in words])


class TrainingStopped(Exception):
    """A training that a signal ended after it had saved: the same command continues it."""


class TrainingInterrupted(TrainingStopped):
    """A stop without a signal from the user: the launcher died or restarts the training."""


@contextlib.contextmanager
def cli_errors():
    """End the process with one line on stderr for an error that a user can fix (exit code 1), and for Ctrl-C
    (130), SIGTERM (143) and SIGHUP (129), which clean up first.

    A training that a signal stopped has logged so itself (85). What cannot be printed ends nothing; after the
    block it is an error, or if the reader of stdout has gone (`| head`) a silent end (141).
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    with surviving_output(), EndSignals() as signals:
        stdout = sys.stdout
        try:
            yield
            if isinstance(stdout.fault, BrokenPipeError):
                sys.exit(141)
            if stdout.fault:
                raise UserError(f"stdout cannot be written ({stdout.fault}), the output is not complete")
        except TrainingStopped as stop:
            sys.exit(RESTART if isinstance(stop, TrainingInterrupted) else STOPPED)
        except (Exception, KeyboardInterrupt) as error:
            known = isinstance(error, (UserError, OSError, KeyboardInterrupt)) or is_out_of_memory(error)
            if not signals.raised and not known:
                sys.excepthook = _print_traceback
                raise
            sys.exit(report(signals.raised or error))


def _print_traceback(kind, error, trace):
    """Print a traceback as Python does, without secrets in URLs."""
    print(masked("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def report(error):
    """Print an error on stderr and return its exit code.

    One line for an error that a user can fix, a traceback for a bug of ours. Under a launcher every rank
    reports, by its number: one node alone may have the fault.
    """
    rank = (
        f"rank {os.environ['RANK']}: "
        if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ
        else ""
    )
    code = 1
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "number", signal.SIGINT)
        how = "interrupted" if number == signal.SIGINT else f"ended by {error}"
        words, code = f"{rank}{how}", 128 + number
    elif isinstance(error, (UserError, OSError)):
        words = f"error: {rank}{masked(str(error)) or type(error).__name__}"
    elif is_out_of_memory(error):
        lines = masked(str(error)).splitlines() or ["the memory does not suffice"]
        words = f"error: {rank}{lines[0]}; use fewer processes, or smaller tiles, batches or images"
    else:
        words = f"{rank}{masked(''.join(traceback.format_exception(error)))}"
    print(words, file=sys.stderr, flush=True)
    _tell_torch(words)
    return code


def _tell_torch(words):
    """Leave the words of an error for torch's launcher, which prints them behind a traceback of its own."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        facts = {"py_callstack": words, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": {"message": words, "extraInfo": facts}}))
