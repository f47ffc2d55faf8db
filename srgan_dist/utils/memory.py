"""Errors that mean too little memory, on a GPU or of the machine, in words that say what to change."""

import contextlib
import errno

# Of PyTorch, of its libraries for GPUs and CPUs, and of C++
_WORDS = (
    "DefaultCPUAllocator",
    "out of memory",
    "_ALLOC_FAILED",
    "bad_alloc",
    "could not create a primitive",
)


def is_out_of_memory(error):
    """Return whether an error means out of memory: on a GPU, in its libraries, or on the machine."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def raise_out_of_memory(error, subject):
    """Raise MemoryError that names the subject if an error means too little memory: nothing is damaged."""
    if is_out_of_memory(error):
        raise MemoryError(f"{subject} does not fit into memory") from None


@contextlib.contextmanager
def memory_named(named):
    """Raise named(error), as a rule a UserError with the way out, where the block lacks memory."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise named(error) from None
