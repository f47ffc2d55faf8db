"""A source of samples, and the helpers of all scans: headers read once, faults grouped by problem."""

from dataclasses import dataclass, field

from srgan_dist.data.image_files import left_out, read_info, split_images
from srgan_dist.data.volume import ImageError, Volume


@dataclass(frozen=True)
class Source:
    """One HR file, with its LR file where there is one; all its slices and tiles belong to one split."""

    name: str  # prefix of the keys of its samples
    rock: str
    split: str
    file: str  # HR path below the source folder
    hr: Volume
    lr: Volume | None = None


@dataclass(frozen=True)
class Scan:
    """The sources of a folder; `faults` are errors, `notes` are information for the user."""

    sources: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def only_images(files, folder, scan):
    """Return those files that are images; name the others in a note."""
    images, others = split_images(files)
    scan.notes.extend(left_out(folder, [path.name for path in others]))
    return images


def header_or_problem(path, problems):
    """Return the Volume of a file, or None and add its problem to {problem: paths}."""
    try:
        return read_info(path)
    except ImageError as error:
        problems.setdefault(str(error).removeprefix(f"{path}: "), []).append(path)
        return None


def grouped(problems):
    """Turn {problem: paths} into one fault per problem."""
    return [f"{some(paths)}: {problem}" for problem, paths in problems.items()]


def some(paths):
    """Name the first three paths, and the number of the others."""
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
