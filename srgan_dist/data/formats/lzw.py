"""A check of LZW data before imagecodecs decodes them.

Its decoder (imcd_lzw_decode) refuses every code that is not in the table, but for the first one behind a
CLEAR: that one it follows into a table that is stale or was never written.
"""

import numpy as np

_CLEAR, _END = 256, 257
_WINDOW = 1024  # codes that are looked at together


def _layout(early):
    """Return (bits before each code behind a CLEAR, its bits); MSB-first data widen a code `early`."""
    entries = np.maximum(np.arange(4096 - 257) - 1, 0) + 258  # of the table, when a code is read
    widths = 9 + sum((entries >= limit - early).astype(int) for limit in (512, 1024, 2048))
    return np.cumsum(widths) - widths, widths


_MSB, _LSB = _layout(early=1), _layout(early=0)


def is_sound_lzw(data):
    """Return whether every first code behind a CLEAR is a byte, in the LZW bytes of a strip or tile."""
    padded = np.frombuffer(bytes(data) + b"\0\0", np.uint8)
    lsb_first = padded[0] == 0 and padded[1] & 1
    before, widths = _LSB if lsb_first else _MSB
    end, start, number = 8 * len(data), 9, 0  # bit behind the CLEAR, and code behind it
    while True:
        at = start + before[number : number + _WINDOW]
        width = widths[number : number + _WINDOW]
        at = at[at + width <= end]
        if not len(at):
            return True
        width = width[: len(at)]
        three = [padded[(at >> 3) + n].astype(np.uint32) for n in range(3)]
        if lsb_first:
            codes = (three[0] | three[1] << 8 | three[2] << 16) >> (at & 7)
        else:
            codes = (three[0] << 16 | three[1] << 8 | three[2]) >> (24 - (at & 7) - width)
        codes &= (1 << width) - 1
        if number == 0 and codes[0] > _END:
            return False
        found = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        if not len(found):
            number += _WINDOW
        elif codes[found[0]] == _END:
            return True
        else:
            start, number = at[found[0]] + width[found[0]], 0
