"""Progress of a command: a bar on a terminal, plain lines at intervals anywhere else."""

import logging
import sys
import time

from tqdm import tqdm

from srgan_dist.utils.errors import forget_stdout

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts steps of `total`, with a short text after the count; silent unless `visible`."""

    def __init__(self, title, total, done=0, unit="step", visible=True):
        self.title, self.total, self.done, self.visible = title, total, done, visible
        self.start, self.start_done, self.last_line = time.monotonic(), done, time.monotonic()
        terminal = visible and sys.stderr.isatty()
        self.bar = (
            tqdm(desc=title, total=total, initial=done, unit=unit, dynamic_ncols=True) if terminal else None
        )

    def update(self, text=None, total=None):
        """Count one step; text: shown from now on; total: a new estimate of all steps."""
        self.done += 1
        self.total = total or self.total
        if self.bar is not None:
            self.bar.total = self.total
            if text is not None:
                self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()
        elif text is not None:
            self._line(text)

    def print_line(self, text):
        """Print a line without disturbing the bar."""
        if self.visible:
            print_line(text)

    def close(self):
        if self.bar is not None:
            self.bar.close()

    def _line(self, text):
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = now
            each = (now - self.start) / max(1, self.done - self.start_done)
            left = tqdm.format_interval(each * max(0, self.total - self.done))
            self.print_line(f"{self.title} {self.done}/{self.total} [{left} left] {text}")


def print_line(text):
    """Print a line. Where stdout cannot be written (a full disk), warn once and continue without stdout."""
    try:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        log.warning("stdout cannot be written (%s); further output is lost", error)


def progress_bar(items, title, unit, total=None):
    """Iterate with a progress bar on a terminal, silently anywhere else."""
    return tqdm(
        items, desc=title, unit=unit, total=total, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )
