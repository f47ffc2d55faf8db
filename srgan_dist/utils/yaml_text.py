"""YAML as data alone, of a bounded size."""

import math

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

MAX_CHARACTERS = 10_000_000
MAX_VALUES = 100_000  # with aliases written out


def parse_yaml(text):
    """Return the value of a YAML text; raises ValueError, in one line, where it has none or is too large."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # e.g. "!!int foo", 1000 brackets
        words = str(error).partition("To suppress this check")[0]  # advice on how to allow a key twice
        raise ValueError(" ".join(words.split())) from None
    if _count(value, {}) > MAX_VALUES:
        raise ValueError(f"its aliases (*NAME) stand for more than {MAX_VALUES:,} values; write them out")
    return value


def _count(value, counts):
    """Return how many values there are in one, with its aliases written out; counts: those known, by id."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in counts:
        counts[id(value)] = math.inf  # until it is known: one that is within itself has no end
        members = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(member, counts) for member in members)
    return counts[id(value)]
