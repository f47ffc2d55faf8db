"""Zip archives that are unsafe to unpack."""

import stat

import pytest
from test_fetch import zip_of

from srgan_dist.datasets.archive import Limits, checked_files
from srgan_dist.utils.errors import UserError


def changed(**values):
    """Falsify the last member in the archive's directory."""

    def edit(archive):
        for name, value in values.items():
            setattr(archive.filelist[-1], name, value)

    return edit


def named(name):
    return changed(filename=name)


def of_mode(mode):
    return changed(external_attr=mode << 16)


def checked(tmp_path, edit=lambda archive: None, limits=Limits()):  # noqa: B008
    path = tmp_path / "archive.zip"
    path.write_bytes(zip_of({"rocks/": b"", "rocks/coal/1.png": bytes(100), "z": b"last"}, edit))
    return [member.filename for member in checked_files(path, limits)]


def test_a_safe_archive_gives_its_files(tmp_path):
    assert checked(tmp_path, of_mode(stat.S_IFREG | 0o777)) == ["rocks/coal/1.png", "z"]


UNSAFE = {
    "absolute path": (named("/etc/cron.d/job"), "'/etc/cron.d/job' is an absolute path"),
    "drive": (named("C:/windows/a"), "'C:/windows/a' is an absolute path, or has a backslash or a drive"),
    "backslash": (named("..\\a"), "or has a backslash"),
    "parent folder": (named("a/../../b"), "'a/../../b' has an empty folder name, . or .."),
    "parent as folder": (named("../"), "'../' has an empty folder name, . or .."),
    "no name": (named(""), "'' has an empty folder name"),
    "control characters": (named("a\x1b[2Jb"), "has control characters"),
    "zero byte": (named("a\x00b"), "has control characters"),
    "long name": (named("a" * 401), "more than 400 characters"),
    "deep name": (named("a/" * 20 + "b"), "more than 20 folders"),
    "link": (of_mode(stat.S_IFLNK | 0o777), "'z' is a link or a special file"),
    "device": (of_mode(stat.S_IFCHR | 0o600), "'z' is a link or a special file"),
    "folder without slash": (of_mode(stat.S_IFDIR | 0o700), "'z' is a link or a special file"),
    "encrypted": (changed(flag_bits=1), "'z' is encrypted"),
    "unknown compression": (changed(compress_type=9), "not compressed by deflate"),
    "duplicate": (named("rocks/coal/1.png"), "'rocks/coal/1.png' would take the place of 'rocks/coal/1.png'"),
    "other case": (named("rocks/coal/1.PNG"), "1.PNG' would take the place of"),
    "folder in other case": (named("rocks/Coal/a"), "'rocks/Coal' would take the place of 'rocks/coal'"),
    "file over folder": (named("rocks/coal"), "would take the place of"),
    "folder below file": (named("rocks/coal/1.png/a"), "would take the place of"),
    "huge": (changed(file_size=10**12), "1,000,000,000,100 bytes; at most 100,000,000,000 are expected"),
    "bomb": (changed(file_size=10**6), "times its size; at most 20 times are expected"),
}


@pytest.mark.parametrize("edit, words", UNSAFE.values(), ids=UNSAFE)
def test_an_unsafe_archive_is_refused(tmp_path, edit, words):
    with pytest.raises(UserError, match="is not safe to unpack, nothing was written") as caught:
        checked(tmp_path, edit)
    assert words in str(caught.value) and all(line.isprintable() for line in str(caught.value).splitlines())


def test_too_many_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="it has 3 files; at most 2 are expected"):
        checked(tmp_path, limits=Limits(files=2))


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(UserError, match="page.zip cannot be read as a zip archive"):
        checked_files(tmp_path / "page.zip")
