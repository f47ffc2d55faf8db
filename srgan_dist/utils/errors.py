"""Errors that a user can fix, and how commands report them."""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path

STOPPED = 85  # exit code, as HTCondor's examples have it; else 0 done, 1 error
ENDED = "SRGAN_DIST_ENDED"  # variable of launch/ranks.py: the folder where ranks leave files named 0 or 85


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)([^\s'\"]+)")
# A user and a password, which may hold a slash; not the port of a host
_USER = re.compile(r"^(?:[^/?#@]*:(?!\d*(?:/|$))\S*|[^/?#]*)@")


def masked(text):
    """Return text without the secrets that URLs in it may hold: user information, queries and fragments."""
    return _URL.sub(lambda url: url[1] + re.sub(r"([?#]).+", r"\1***", _USER.sub("***@", url[2])), text)


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
    """End the process with one line on stderr for an error that a user can fix (exit code 1) or Ctrl-C (130).

    A training that a signal stopped has logged so itself (85). When the reader of stdout has gone (`| head`)
    the process ends silently, as others do (141).
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        yield
        print(end="", flush=True)  # a full disk or closed pipe shows here, not after the last except
        _tell_launcher(0)
    except (UserError, OSError, KeyboardInterrupt) as error:
        sys.exit(report(error))
    except TrainingInterrupted:
        sys.exit(STOPPED)
    except TrainingStopped:
        _tell_launcher(STOPPED)
        sys.exit(STOPPED)


def report(error):
    """Print an error on stderr and return its exit code.

    One line for an error that a user can fix, a traceback for a bug of ours, nothing where the reader of
    stdout has gone. Under a launcher every rank reports, by its number: one node alone may have the fault.
    """
    rank = (
        f"rank {os.environ['RANK']}: "
        if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ
        else ""
    )
    code = 1
    if isinstance(error, BrokenPipeError) and _stdout_is_closed():
        return 141
    if isinstance(error, KeyboardInterrupt):
        words, code = f"{rank}interrupted", 130
    elif isinstance(error, (UserError, OSError)):
        words = f"error: {rank}{masked(str(error)) or type(error).__name__}"
    else:
        words = f"{rank}{''.join(traceback.format_exception(error))}"
    print(words, file=sys.stderr, flush=True)
    _tell_torch(words)
    return code


def _tell_torch(words):
    """Leave the words of an error for torch's launcher, which prints them behind a traceback of its own."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        facts = {"py_callstack": words, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": {"message": words, "extraInfo": facts}}))


def _tell_launcher(code):
    if folder := os.environ.get(ENDED):
        (Path(folder) / str(code)).touch()


def _stdout_is_closed():
    """Return whether stdout has no reader any more; if so nothing else is written to it, not even at exit."""
    try:
        print(flush=True)  # only a further byte shows it: the bytes that could not be written are forgotten
        return False
    except BrokenPipeError:
        forget_stdout()
        return True


def forget_stdout():
    """Discard all further output, and that which is not written yet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
