"""JSON of untrusted files."""

import json


def load_json(content, finite=False, **options):
    r"""Return what `json.loads` does; raises ValueError for lone surrogates (\ud800) too, which no file
    or error could repeat. finite: also for NaN, Infinity and 1e999.
    """
    found = json.loads(content, **options)
    if (b"\\u" if isinstance(content, bytes) else "\\u") in content:
        json.dumps(found, ensure_ascii=False).encode()
    if finite:
        json.dumps(found, allow_nan=False)
    return found
