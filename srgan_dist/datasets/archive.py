"""Checks of a zip archive from outside, before anything of it is written."""

import stat
import unicodedata
import zipfile
from dataclasses import dataclass

from srgan_dist.datasets.fetch import printable
from srgan_dist.utils.errors import UserError


@dataclass(frozen=True)
class Limits:
    """More than any honest copy of DeepRock-SR has: about 120,000 files, and PNG hardly shrinks in a zip."""

    files: int = 500_000
    unpacked_bytes: int = 100_000_000_000
    ratio: int = 20  # unpacked bytes over bytes of the archive


EXPECTED = Limits()


def checked_files(path, limits=EXPECTED):
    """Return the ZipInfo of all files in a zip; raises UserError that names unsafe members."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a zip archive ({printable(error)}); delete it and download it again"
        ) from None
    faults = [*_bomb_faults(members, path.stat().st_size, limits), *filter(None, map(_fault, members))]
    faults = faults or list(_collisions(members))
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:5]) + ("\n  ..." if len(faults) > 5 else "")
        raise UserError(
            f"{path} is not safe to unpack, nothing was written:\n{shown}\n"
            "Delete it and download it again; if that does not help, ask the portal"
        )
    return [member for member in members if not _is_folder(member)]


def _bomb_faults(members, archive_bytes, limits):
    """Yield limits that the archive exceeds; unpacking never writes more than the sizes in its directory."""
    unpacked = sum(member.file_size for member in members)
    if len(members) > limits.files:
        yield f"it has {len(members):,} files; at most {limits.files:,} are expected"
    if unpacked > limits.unpacked_bytes:
        yield f"it would unpack to {unpacked:,} bytes; at most {limits.unpacked_bytes:,} are expected"
    if unpacked > limits.ratio * archive_bytes:
        ratio = f"{unpacked / archive_bytes:.0f} times its size"
        yield f"it would unpack to {ratio}; at most {limits.ratio} times are expected"


def _fault(member):
    """Return an error in the name or the kind of a member, or None."""
    name = member.orig_filename  # as in the archive; zipfile's `filename` ends at a zero byte
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or "\\" in name or ":" in name:
        fault = "is an absolute path, or has a backslash or a drive letter"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty folder name, . or .."
    elif not name.isprintable() or len(name) > 400 or len(parts) > 20:
        fault = "has control characters, more than 400 characters or more than 20 folders"
    elif kind not in (0, stat.S_IFDIR if _is_folder(member) else stat.S_IFREG):
        fault = "is a link or a special file"
    elif member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = "is encrypted or not compressed by deflate; unpack and zip the archive again by hand"
    else:
        return None
    return f"{printable(repr(name))} {fault}"


def _is_folder(member):
    return member.orig_filename.endswith("/")


def _collisions(members):
    """Yield members that would be the same file on a disk that ignores case or Unicode composition."""
    seen = {}  # folded path -> (path, whether it is a folder)
    for member in members:
        parts = member.orig_filename.removesuffix("/").split("/")
        for depth in range(1, len(parts) + 1):
            path, folder = "/".join(parts[:depth]), depth < len(parts) or _is_folder(member)
            key, entry = unicodedata.normalize("NFC", path).casefold(), (path, folder)
            if (other := seen.get(key)) and not (folder and other == entry):
                yield f"{printable(repr(path))} would take the place of {printable(repr(other[0]))}"
                break
            seen[key] = entry
