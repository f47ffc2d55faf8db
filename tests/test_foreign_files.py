"""Properties of every format of untrusted files: any bytes are read right, or refused by an error that
names the file, within 2 seconds and half a GiB.
"""

import contextlib
import signal
import sys

import pytest
from conftest import limited_memory
from foreign_formats import FORMATS
from hypothesis import given, settings

from srgan_dist.utils.errors import UserError

SECONDS = 2  # of computing


class TooSlow(BaseException):
    """Raised by the alarm; no reader catches it."""


@contextlib.contextmanager
def alarm(seconds):
    """Raise TooSlow after some seconds of this process's own computing, whatever others do."""

    def ring(signum, frame):
        raise TooSlow

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1300)  # hypothesis lifts it far above that of a command
    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        sys.setrecursionlimit(limit)


def hold(kind, folder, shards, **options):
    """Check that many contents of a format are read right or refused by name; returns how many were read."""
    folder.mkdir(exist_ok=True)
    format, read = kind(folder, shards), []

    @settings(deadline=None, database=None, report_multiple_bugs=False, **options)
    @given(format.contents)
    def is_read_or_refused(content):
        format.place(content)
        try:
            # For each reading: hypothesis itself keeps hundreds of MiB after thousands of examples
            with alarm(SECONDS), limited_memory():
                format.read()
            read.append(content)
        except UserError as error:
            is_named = getattr(format, "is_named", lambda text: str(format.path) in text)
            assert is_named(str(error)), error
            str(error).encode()  # it can be printed
            assert not isinstance(error.__context__, MemoryError)  # of the limit

    format.place(format.valid)
    format.read()
    is_read_or_refused()
    return len(read)


@pytest.mark.parametrize("kind", FORMATS)
def test_any_content_is_read_right_or_refused_by_name(tmp_path, shards, kind):
    assert hold(kind, tmp_path / "file", shards, max_examples=100, derandomize=True) < 100


@pytest.mark.nightly
@pytest.mark.parametrize("kind", FORMATS)
def test_much_more_content_is_read_right_or_refused_by_name(tmp_path, shards, kind):
    hold(kind, tmp_path / "file", shards, max_examples=10_000)
