"""Errors that a user can mend, and how commands report them."""

import contextlib
import os
import sys


class UserError(ValueError):
    """A fault of input, settings or files; the message names it and the way out. Anything else is a fault of ours."""


@contextlib.contextmanager
def reported():
    """End the process with one line on stderr for what a user can mend (exit code 1) or has interrupted (130).

    Under a launcher every rank reports, by its number: the fault may lie on one node only.
    """
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"error: {rank}{error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{rank}interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
