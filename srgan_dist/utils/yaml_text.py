"""YAML as data alone, of a bounded size."""

import math
import re

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

MAX_CHARACTERS = 2**16  # which the parser reads in about a second; a config has 2,000
MAX_VALUES = 100_000  # with aliases written out
MAX_DEPTH = 50  # values within one another; a config has five
_BEGINNINGS = re.compile(r" *(?:(?:[-?:]|[!&][^ ]*)(?: +|$))*")  # of values, before the first word of a line


def parse_yaml(text):
    """Return the value of a YAML text; raises ValueError, in one line, where it has none or is too large."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    if _is_deeper(text, MAX_DEPTH):  # before the parser, whose time grows with the square
        raise ValueError(f"it holds more than {MAX_DEPTH} values within one another")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # e.g. "!!int foo", 1000 brackets
        words = str(error).partition("To suppress this check")[0]  # advice on how to allow a key twice
        raise ValueError(" ".join(words.split())) from None
    if _count(value, {}) > MAX_VALUES:
        raise ValueError(f"its aliases (*NAME) stand for more than {MAX_VALUES:,} values; write them out")
    return value


def _is_deeper(text, most):
    """Return whether more than `most` values may be within one another, by brackets and indentation alone."""
    brackets, columns = 0, []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _BEGINNINGS.match(line)
        begins = [*(word.start() for word in re.finditer(r"[^ ]+", found[0])), found.end()]
        while columns and columns[-1] >= begins[0]:
            columns.pop()
        columns += begins
        deepest = brackets
        for bracket in re.findall(r"[\[\]{}]", line):
            brackets = max(0, brackets + (1 if bracket in "[{" else -1))
            deepest = max(deepest, brackets)
        if len(columns) + deepest > most:
            return True
    return False


def _count(value, counts):
    """Return how many values there are in one, with its aliases written out; counts: those known, by id."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in counts:
        counts[id(value)] = math.inf  # until it is known: one that is within itself has no end
        members = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(member, counts) for member in members)
    return counts[id(value)]
