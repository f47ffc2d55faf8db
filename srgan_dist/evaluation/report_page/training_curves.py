"""The curves of a training, thinned while metrics.jsonl is read: its size does not matter."""

import math

from srgan_dist.tracking.tracker import X_AXIS
from srgan_dist.utils.files import open_regular
from srgan_dist.utils.json_text import load_json

MAX_POINTS = 400  # of a curve; neighbours are averaged beyond
MAX_NAMES = 500
MAX_LINE = 2**20  # bytes; a longer line is no record


class ThinnedCurve:
    """A curve that takes any number of points and keeps at most MAX_POINTS: means over equally many of
    them each.
    """

    def __init__(self):
        self.points = []  # of [sum of x, sum of y, count]
        self.per_point = 1

    def add(self, x, y):
        if self.points and self.points[-1][2] < self.per_point:
            last = self.points[-1]
            last[0], last[1], last[2] = last[0] + x, last[1] + y, last[2] + 1
            return
        if len(self.points) == MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            self.per_point *= 2
        self.points.append([x, y, 1])

    def means(self):
        """Return the lists of x and of y."""
        return [x / n for x, _, n in self.points], [y / n for _, y, n in self.points]


def read_training_curves(path):
    """Return {name: (samples seen, values)} of the logged numbers of a metrics.jsonl, {} where there is none.

    Lines that are no records, e.g. one that a crash cut off, and values that are not finite numbers are left
    out.
    """
    curves = {}
    if not path.exists():
        return {}
    with open_regular(path) as file:
        while line := file.readline(MAX_LINE):
            try:
                record = load_json(line)
                seen = record.pop(X_AXIS)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if not _is_number(seen):
                continue
            for name, value in record.items():
                if name in curves or len(curves) < MAX_NAMES:
                    if _is_number(value):
                        curves.setdefault(name, ThinnedCurve()).add(seen, value)
    return {name: curve.means() for name, curve in curves.items()}


def _is_number(value):
    """Return whether a value of JSON is a number that a plot can show; an integer may be of any size."""
    return type(value) in (int, float) and -1e300 < value < 1e300 and math.isfinite(value)
