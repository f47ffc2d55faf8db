"""Standard output and error that never end a program: what cannot be written is left out."""

import contextlib
import logging
import os
import re
import select
import sys

log = logging.getLogger(__name__)

PIECE = 1000  # characters: a pipe with room at all takes as many without a wait
# What drives a terminal, as a file's name may; not what a progress bar writes: line feeds, returns, cursor up
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[A)")
READER_SECONDS = 10.0  # a training waits so long for a reader that has stopped reading


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)([^\s'\"]+)")
# A user and a password, which may hold a slash; not the port of a host
_USER = re.compile(r"^(?:[^/?#@]*:(?!\d*(?:/|$))\S*|[^/?#]*)@")


def masked(text):
    """Return text without the secrets that URLs in it may hold: user information, queries and fragments."""
    return _URL.sub(lambda url: url[1] + re.sub(r"([?#]).+", r"\1***", _USER.sub("***@", url[2])), text)


class Output:
    """A text stream whose `write` and `flush` never raise; `fault` is the first error of the stream, or None.

    Control characters are written as the escapes of Python, URLs without what may be secret in them.

    patience: seconds to wait for a reader that has stopped reading (a pager, Ctrl-S, a stopped `tee`), after
    which text is left out until it reads again; None: for ever.
    """

    def __init__(self, stream, patience=None):
        self.stream, self.patience, self.fault, self.stuck = stream, patience, None, False

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        written = CONTROLS.sub(lambda found: repr(found[0])[1:-1], masked(text))
        try:
            for start in range(0, len(written), PIECE):
                if self._has_room():
                    self.stream.write(written[start : start + PIECE])
                    self.stream.flush()
        except (OSError, ValueError) as error:  # ValueError: a closed file
            self._discard(error)
        return len(text)

    def writelines(self, lines):
        self.write("".join(lines))

    def flush(self):
        """`write` has flushed already."""

    def _has_room(self):
        if not hasattr(select, "poll") or (number := _descriptor(self.stream)) is None:
            return True
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        seconds = 0 if self.stuck else self.patience
        self.stuck = not poll.poll(seconds if seconds is None else 1000 * seconds)
        return not self.stuck

    def _discard(self, error):
        """Drop what the stream still holds, or Python would fail to write it at its exit; a broken pipe stays
        broken, a disk may have room again.
        """
        first, self.fault = self.fault is None, self.fault or error
        if first and self.patience is not None and not isinstance(error, BrokenPipeError):
            name = str(getattr(self.stream, "name", "output")).strip("<>")
            log.warning("%s cannot be written (%s); what has no room is left out", name, error)
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            number = self.stream.fileno()
            before = os.dup(number)
            try:
                os.dup2(nowhere.fileno(), number)
                self.stream.flush()
            finally:
                if not isinstance(error, BrokenPipeError):
                    os.dup2(before, number)
                os.close(before)


@contextlib.contextmanager
def surviving_output(patience=None):
    """Let sys.stdout and sys.stderr be `Output`s in the block, of their own where it lies in another one."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        Output(getattr(stream, "stream", stream) or _nowhere(number), patience)
        for number, stream in enumerate(before, start=1)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _open_standard_files():
    """Open /dev/null in place of standard files that were closed (`>&-`): the next file that is opened would
    have the number of one, and get what libraries print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _nowhere(number):
    """Return a stream for a standard file that was closed when Python started."""
    return open(number, "w", encoding="utf-8", closefd=False)


def _descriptor(stream):
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream of a notebook or a test
        return None
