"""Progress of a command: a bar on a terminal, plain lines at intervals anywhere else."""

import contextlib
import sys
import threading
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
SILENT_SECONDS = 30  # of a wait for other processes, which is then explained


class Progress:
    """Counts steps of `total` (None: not known), with a short text after the count; silent unless `visible`.

    estimated: whether the time left follows from the steps so far; else `update` is told it.
    """

    def __init__(self, title, total, done=0, unit="step", visible=True, estimated=True):
        self.title, self.total, self.done, self.visible = title, total, done, visible
        self.start, self.start_done, self.last_line = time.monotonic(), done, time.monotonic()
        self.estimated, self.bar = estimated, None
        if visible and sys.stderr.isatty():
            form = None if estimated else "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            options = {"initial": done, "unit": unit, "dynamic_ncols": True, "bar_format": form}
            self.bar = tqdm(desc=title, total=total, **options)

    def update(self, text=None, total=None, left="", at_once=False):
        """Count one step; text: shown from now on; total: a new estimate of all steps; left: the time left as
        text; at_once: whether the line is due now.
        """
        self.done += 1
        self.total = total or self.total
        if self.bar is not None:
            self.bar.total = self.total and max(self.total, self.done)  # an estimate can be too small
            if text is not None:
                self.bar.set_postfix_str(", ".join(filter(None, [left, text])), refresh=False)
            self.bar.update()
            if at_once:
                self.bar.refresh()
        elif text is not None:
            self._line(text, left, at_once)

    def print_line(self, text):
        """Print a line without disturbing the bar."""
        if self.visible:
            print_line(text)

    def close(self):
        if self.bar is not None:
            self.bar.close()

    def _line(self, text, left, at_once):
        now = time.monotonic()
        if at_once or now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = now
            if self.estimated:
                each = (now - self.start) / max(1, self.done - self.start_done)
                left = f"{tqdm.format_interval(each * max(0, self.total - self.done))} left"
            count = f"{self.done}/{self.total}" if self.total else self.done
            self.print_line(" ".join(filter(None, [f"{self.title} {count}", left and f"[{left}]", text])))


def print_line(text):
    """Print a line above any bar."""
    tqdm.write(text, file=sys.stdout)


def progress_bar(items, title, unit, total=None):
    """Iterate with a progress bar on a terminal, silently anywhere else."""
    return tqdm(
        items, desc=title, unit=unit, total=total, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )


@contextlib.contextmanager
def wait_explained(who, for_whom, address):
    """Say on stderr who waits for whom, at a port, where the block takes longer than SILENT_SECONDS."""
    reason = "if all have started, that port belongs to another program, or a firewall closes it"
    text = f"{who} waits for {for_whom} at {address}; {reason}"
    timer = threading.Timer(SILENT_SECONDS, lambda: print(text, file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
