"""The scales of super resolution: HR size over LR size."""

SCALES = (2, 3, 4, 6, 8)


def scale_problem(scale):
    """Return the broken rule in words, None where a generator can be built for this scale."""
    return None if scale in SCALES else f"must be one of {', '.join(map(str, SCALES))}"
