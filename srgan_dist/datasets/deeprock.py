"""DeepRock-SR-2D, from its portal to OUT/: downloaded, compared with the first download, unpacked.

In OUT, `DeepRockSR-2D/` appears in one rename, when every file is there. `download.json` has the address and
the sha256 of the archive, `DeepRockSR-2D.zip.part` and its `.json` are the archive until then.
"""

import os
import posixpath
import re
import shlex
import shutil
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from srgan_dist.datasets.archive import EXPECTED, checked_files
from srgan_dist.datasets.fetch import Failed, Part, Source, described, fetch, printable, read_part
from srgan_dist.storage.remote import RETRY_POLICY
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, read_regular, sha256_of, unwritable_named
from srgan_dist.utils.locks import file_lock
from srgan_dist.utils.progress import progress_bar

DOI = "https://doi.org/10.17612/s3m9-e024"
LICENCE = "ODC-BY 1.0"
FOLDER = "DeepRockSR-2D"
RECORD = "download.json"

_SET_FOLDER = re.compile(
    r"(?P<set>.+)_(?P<split>train|valid|test)_(?P<side>HR|LR_(?P<kind>[a-z]+)_X(?P<scale>\d+))"
)
_SYSTEM_FILES = {".ds_store", "thumbs.db", "desktop.ini"}


# From public scripts; they have not been tried
SOURCES = (
    Source(
        "https://digitalporousmedia.org/api/datafiles/tapis/download/public/drp.project.published.DRP-215/"
        "2D%20Dataset/DeepRock-SR-2D/DeepRockSR-2D.zip/",
        is_link=True,
    ),
    Source("https://www.digitalrocksportal.org/projects/215/images/159816/download/"),
    Source("https://digitalrocks-dev.tacc.utexas.edu/media/projects/215/archive.zip"),
)


class Record(BaseModel):
    """OUT/download.json: the archive that was unpacked, and the number and size of its files."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str
    bytes: int
    sha256: str
    last_modified: str | None = None
    files: int
    unpacked_bytes: int


@dataclass(frozen=True)
class Result:
    """An unpacked set; left_out: the number of files in the archive that are not of the set."""

    folder: Path
    record: Record
    left_out: int = 0
    already_there: bool = False


def download(out, from_file=None, sources=SOURCES, retry_policy=RETRY_POLICY, limits=EXPECTED, say=print):
    """Download the set to `out` and return a Result; from_file: an archive that was downloaded by hand.

    Raises UserError when no address gives the archive, or it is not that of the first download, or is unsafe.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT={out} is a file; give the name of a folder")
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / ".download.lock", f"another process downloads to OUT={out}; wait for it, or end it"):
        first = _read_record(out)
        if (out / FOLDER).exists():
            return _check_existing(out, first, from_file)
        archive, part = _given(from_file) if from_file else _fetch(out, sources, retry_policy, say)
        sha256 = _check_sha256(out, first, archive)
        say(f"{archive}: {archive.stat().st_size:,} bytes, sha256 {sha256}")
        members, left_out = _members_of_set(archive, checked_files(archive, limits))
        record = Record(
            url=part.url,
            bytes=archive.stat().st_size,
            sha256=sha256,
            last_modified=part.last_modified,
            files=len(members),
            unpacked_bytes=sum(member.file_size for member, _ in members),
        )
        _unpack(archive, members, out, record)
        for leftover in out.glob(f"{FOLDER}.*.part*"):
            leftover.unlink()
        return Result(out / FOLDER, record, left_out)


# Record


def _read_record(out):
    """Return the record of an earlier download to `out`, None when there is none."""
    path = out / RECORD
    try:
        return Record.model_validate_json(read_regular(path))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(
            f"{path} is corrupt; delete it, and {out / FOLDER} if it is there, and start again"
        ) from None


def _check_existing(out, first, from_file):
    """Return the Result for a set that was unpacked before, if it is complete and that of from_file."""
    folder = out / FOLDER
    if first is None:
        raise UserError(
            f"{folder} is there, but no {RECORD} of its origin; give another OUT, or move the folder away"
        )
    if from_file:
        _check_sha256(out, first, _given(from_file)[0])
    paths = (os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
    sizes = [os.path.getsize(path) for path in paths if not _is_system_file(path)]
    if (len(sizes), sum(sizes)) != (first.files, first.unpacked_bytes):
        raise UserError(
            f"{folder} has {len(sizes):,} files of {sum(sizes):,} bytes, but {first.files:,} files of"
            f" {first.unpacked_bytes:,} bytes were unpacked; delete the folder and start again"
        )
    return Result(folder, first, already_there=True)


def _check_sha256(out, first, archive):
    """Return the sha256 of an archive; it must be that of the first download if there was one."""
    sha256 = sha256_of(archive)
    if first and first.sha256 != sha256:
        raise UserError(
            f"{archive} has sha256 {sha256}, but the first download, from {first.url}, had {first.sha256}:"
            f" the data set is not the same. To take the new one, delete {out / RECORD} and {out / FOLDER}"
            f" and start again; to stay with the old one, move {archive} away"
        )
    return sha256


def _given(file):
    """Return an archive that was downloaded by hand, and its Part."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"--from {file} is not a file; give the zip that was downloaded from {DOI}")
    if not zipfile.is_zipfile(file):
        with open(file, "rb") as opened:
            raise UserError(
                f"--from {file} is not a complete zip archive but {described(opened.read(2**20))};"
                f" download it again from {DOI}"
            )
    return file, Part(url=file.resolve().as_uri())


def _fetch(out, sources, policy, say):
    """Return the downloaded archive and its Part, from the first source that gives it."""
    path, answers = out / f"{FOLDER}.zip.part", []
    begun = read_part(path)
    for source in sorted(sources, key=lambda source: not begun or source.address != begun.url):
        try:
            return path, fetch(source, path, policy, say)
        except Failed as failure:
            answers.append(f"  {source.address}: {failure}")
            say(answers[-1])
    kept = "The partial download is kept: the same command resumes it.\n" if path.exists() else ""
    tried = "\n".join(answers)
    raise UserError(
        f"{FOLDER} could not be downloaded. Tried:\n{tried}\n{kept}The portal may have moved. Look"
        f" where {DOI} leads, download the zip of the 2D images with a browser, and unpack it with\n"
        f"  python shards/download.py {shlex.quote(str(out))} --from {FOLDER}.zip"
    )


# Archive


def _members_of_set(archive, files):
    """Return (member, path below the set's folder) of the set's files, and the number of other files."""
    files = [(member, PurePosixPath(member.filename)) for member in files]
    files = [(member, name) for member, name in files if not _is_system_file(name)]
    root = _root_of_sets(name for _, name in files)
    if root is None:
        names = printable(", ".join(str(name) for _, name in files[:5])) or "no file"
        raise UserError(
            f"{archive} has no image in a folder like carbonate2D_train_HR, so it is not {FOLDER}; it has"
            f" {names}. The zip of the 2D images is at {DOI}; if it is inside this one, unpack this one by"
            " hand and give --from the inner zip"
        )
    members = [(member, name.relative_to(root)) for member, name in files if name.is_relative_to(root)]
    return members, len(files) - len(members)


def _is_system_file(path):
    path = PurePosixPath(path)
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name.lower() in _SYSTEM_FILES


def _is_slice(path):
    """Return whether a file is a slice of a 2-D set; sets of volumes have .mat files."""
    return PurePosixPath(path).suffix.lower() in (".png", ".tif", ".tiff")


def _root_of_sets(names):
    """Return the folder that all sets have in common, wherever it is in the archive; None without a set."""
    roots = set()
    for name in names:
        folder = _SET_FOLDER.fullmatch(name.parent.name)
        if folder and folder["side"] == "HR" and _is_slice(name):
            above = name.parent.parent
            roots.add(str(above.parent if above.name == folder["set"] else above))
    return PurePosixPath(posixpath.commonpath(roots)) if roots else None


def _unpack(archive, members, out, record):
    """Write the members to a temporary folder, then the record, and rename the folder."""
    temporary = out / f".{FOLDER}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, name in progress_bar(members, "unpack", "file"):
                _write_member(opened, member, temporary / name, archive)
        with atomic_write(out / RECORD, durable=True) as unfinished:
            unfinished.write_text(record.model_dump_json(indent=1) + "\n")
        os.replace(temporary, out / FOLDER)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_member(opened, member, path, archive):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with opened.open(member) as source, unwritable_named(path), open(path, "xb") as file:
            shutil.copyfileobj(source, file)  # the last read compares the CRC
        if path.stat().st_size != member.file_size:
            raise EOFError(f"{path.stat().st_size:,} bytes instead of {member.file_size:,}")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{archive}: {printable(repr(member.filename))} is corrupt ({printable(error)}); delete the"
            " archive and download it again"
        ) from None


# Contents


def count_images(folder):
    """Count the images of an unpacked set: {(set, split): {"HR": n, "default X2": n, ...}}."""
    counts = {}
    for path, _, names in sorted(os.walk(folder)):
        kind = _SET_FOLDER.fullmatch(os.path.basename(path))
        if kind:
            column = "HR" if kind["side"] == "HR" else f"{kind['kind']} X{kind['scale']}"
            counts.setdefault((kind["set"], kind["split"]), Counter())[column] += sum(map(_is_slice, names))
    return counts


def format_images(counts):
    """Return a table of the counts of count_images, one line per set and split."""
    kinds = ["HR", *sorted({kind for row in counts.values() for kind in row} - {"HR"})]
    lines = [f"{'set':<16}{'split':<6}" + "".join(f"{kind:>12}" for kind in kinds)]
    for name, split in sorted(counts, key=lambda key: (key[0], ("train", "valid", "test").index(key[1]))):
        row = counts[name, split]
        lines.append(f"{name:<16}{split:<6}" + "".join(f"{row[kind]:>12,}" for kind in kinds))
    return "\n".join(lines)
