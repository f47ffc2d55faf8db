"""The formats of files in a folder of results: the inputs' own where they are written, else TIFF."""

from srgan_dist.data.image_files import suffix_of
from srgan_dist.data.write_images import WRITERS
from srgan_dist.data.write_volumes import FORMATS as VOLUME_FORMATS
from srgan_dist.utils.errors import UserError


def check_suffix(suffix):
    """Raise UserError unless a suffix is None or that of a format that is written."""
    if suffix is not None and suffix not in {**WRITERS, **VOLUME_FORMATS}:
        known = ", ".join(name[1:] for name in {**WRITERS, **VOLUME_FORMATS})
        raise UserError(f"--format {suffix[1:]} is not written; give one of {known}")


def in_formats(jobs, suffix, by_blocks):
    """Return jobs whose outputs have a suffix that is written, and a list of at most one note about those
    that have not the suffix of their input; suffix: as of `list_jobs`.
    """
    result, others = [], []
    for info, output in jobs:
        formats, own = VOLUME_FORMATS if by_blocks and info.slices > 1 else WRITERS, suffix_of(output)
        other = suffix or (own if own in formats else ".tif")
        if other != own:
            output = output.with_name(output.name[: len(output.name) - len(own)] + other)
            others += [] if suffix else [own or "a folder"]
        result.append((info, output))
    kinds = ", ".join(sorted(set(others)))
    note = (
        f"outputs of {kinds} are TIFF, as these are not written ({len(others)} files); --format gives another"
    )
    return result, [note] if others else []
