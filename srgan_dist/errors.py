"""Errors that a user can mend, and how commands report them."""

import contextlib
import os
import sys
from pathlib import Path

STOPPED = 85  # exit code, as HTCondor's examples have it; else 0 done, 1 error
ENDED = "SRGAN_DIST_ENDED"  # environment variable of launch/ranks.py: the folder where ranks leave files named 0 or 85


class UserError(ValueError):
    """A fault of input, settings or files; the message names it and the way out. Anything else is a fault of ours."""


class TrainingStopped(Exception):
    """A training that a signal ended after it had saved: the same command continues it."""


class TrainingInterrupted(TrainingStopped):
    """The same, of which nobody asked it: its launcher died or restarts it."""


@contextlib.contextmanager
def reported():
    """End the process with one line on stderr for what a user can mend (exit code 1) or has interrupted (130).

    A training that a signal stopped has said so itself (85).

    Under a launcher every rank reports, by its number: the fault may lie on one node only. When the reader of stdout
    has gone (`| head`) the process ends silently, as others do (141).
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    rank = f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""
    try:
        yield
        print(end="", flush=True)  # a full disk or closed pipe shows here, not after the last except
        _tell_launcher(0)
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            sys.exit(141)
        print(f"error: {rank}{str(error) or type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(1)
    except TrainingInterrupted:
        sys.exit(STOPPED)
    except TrainingStopped:
        _tell_launcher(STOPPED)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        print(f"{rank}interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def _tell_launcher(code):
    if folder := os.environ.get(ENDED):
        (Path(folder) / str(code)).touch()


def _stdout_is_closed():
    """Tell whether nobody reads stdout any more; then send there nothing else, not even at exit."""
    try:
        print(flush=True)  # only a further byte tells: what could not be written is forgotten
        return False
    except BrokenPipeError:
        forget_stdout()
        return True


def forget_stdout():
    """Send what is printed from here on, and what waits to be written, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
