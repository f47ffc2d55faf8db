"""The environment variables by which a launcher tells a process which rank it is."""

import os

from srgan_dist.utils.errors import UserError

NEEDED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # by several ranks
BOUNDS = {
    "WORLD_SIZE": (1, 10**6),
    "LOCAL_WORLD_SIZE": (1, 10**6),
    "RANK": (0, 10**6),
    "LOCAL_RANK": (0, 10**6),
    "MASTER_PORT": (0, 65535),
}
WAY_OUT = "unset them, or use accelerate launch, torchrun or launch/ranks.py"


def launched():
    """Return whether a launcher has started this process as one of its ranks."""
    return any(
        name in os.environ
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    )


def launch_number(name, default):
    """Return a variable of BOUNDS, or `default` where it is not set; raises UserError for another value."""
    text, (low, high) = os.environ.get(name), BOUNDS[name]
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
        raise UserError(
            f"{name}={text:.100} must be a whole number from {low} to {high}. A launcher sets it and"
            f" {', '.join(other for other in NEEDED if other != name)}; {WAY_OUT}"
        )
    return int(text)


def launched_ranks():
    """Return the number of launched processes; raises UserError for wrong or inconsistent variables."""
    numbers = {name: launch_number(name, None) for name in BOUNDS}
    variables = {name: os.environ[name] for name in NEEDED if name in os.environ}
    count = numbers["WORLD_SIZE"] or 1
    if count > 1 and len(variables) < len(NEEDED):
        found = " ".join(f"{name}={value}" for name, value in variables.items())
        raise UserError(
            f"{found}: a launcher sets WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; {WAY_OUT}"
        )
    if numbers["WORLD_SIZE"] and (numbers["RANK"] or 0) >= count:
        raise UserError(
            f"RANK={numbers['RANK']} must be below WORLD_SIZE={count}. A launcher sets both; {WAY_OUT}"
        )
    return count
