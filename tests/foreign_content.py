"""Strategies of files as attackers, editors and disks may leave them: any bytes, a valid file with bytes or
entries changed, JSON of anything, deep nesting.
"""

import copy
import json

from hypothesis import strategies as st

ODD = (
    *(None, True, False, "", [], {}, -1, 0, 1, 2, 3, 10**9, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**400),
    *(0.5, -0.0, 1e300, 1e-320, float("nan"), float("inf"), -float("inf")),
    *(
        "null",
        "nan",
        "1e5",
        "0x10",
        "a\nb",
        "\0",
        "\x1b[31m",
        "\ud800",
        "\u202e",
        "..",
        "../x",
        "/dev/null",
        "~",
    ),
    *("x" * 5000, "pipe:id", "train", "npy", "uint8", [[]], {"": None}, {"name": "dense"}),
)
texts = st.text('aZ09_-./ \n\0"{}[]:,é\u202e\ud800', max_size=12)
anything = st.recursive(
    st.sampled_from(ODD).map(copy.deepcopy) | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
depths = st.sampled_from((1, 10, 100, 900, 3000, 100_000))


@st.composite
def changed_entries(draw, document):
    """A document of dictionaries and lists in which one to three entries are other values, gone, of other
    names, doubled, or those of other places.
    """
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.integers(0, 5)):
            case 0 | 1:
                inside[key] = draw(anything)
            case 2:
                del inside[key]
            case 3:
                other, name = places[draw(st.integers(0, len(places) - 1))]
                inside[key] = copy.deepcopy(other[name])
            case 4 if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[key]))
            case _ if isinstance(inside, dict):
                inside[draw(texts)] = draw(anything)
    return document


def _places(document):
    keys = document if isinstance(document, dict) else range(len(document))
    for key in keys:
        yield document, key
        if isinstance(document[key], (dict, list)):
            yield from _places(document[key])


@st.composite
def changed_bytes(draw, original):
    """Bytes of which one to three runs are flipped, cut out, doubled, replaced, or all after them cut off."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(data))), draw(st.sampled_from((1, 2, 4, 9, 30, 300)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = bytes(value ^ 1 << draw(st.integers(0, 7)) for value in data[at : at + 1])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + length] = draw(
                    st.binary(max_size=9) | st.sampled_from((b"1e999", b"NaN", b"9" * 5000))
                )
            case 4:
                del data[at:]
    return bytes(data)


@st.composite
def doubled_keys(draw, document):
    """JSON of a document with a key of its top level twice, the second time with another value."""
    key, text = draw(st.sampled_from(sorted(document))), json.dumps(document)
    return f"{text[:-1]}, {json.dumps(key)}: {json.dumps(draw(anything))}}}".encode()


def nested(*brackets):
    """One of some pairs of brackets within itself."""
    return st.builds(
        lambda pair, depth: (pair[0] * depth + pair[1] * depth).encode(), st.sampled_from(brackets), depths
    )


def foreign_json(document):
    """What may be where the JSON of a document belongs, as bytes."""
    return st.one_of(
        st.binary(max_size=200),
        changed_bytes(json.dumps(document).encode()),
        changed_entries(document).map(encoded),
        changed_entries(document).map(encoded),
        anything.map(encoded),
        doubled_keys(document),
        nested(("[", "]"), ('{"":', "}"), ("[", "")),
    )


def encoded(document):
    return json.dumps(document).encode()
