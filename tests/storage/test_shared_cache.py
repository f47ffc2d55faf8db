"""A cache folder that others may write to."""

import grp
import os
import pwd
import subprocess
import sys
from functools import partial

import pytest
from conftest import REPOSITORY
from test_cache import ONE, TWO, cache, maker, name_of, read  # noqa: F401

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import is_shared


def test_a_copy_with_other_content_is_made_again(cache, caplog):  # noqa: F811
    path = cache.folder / name_of(ONE)
    cache.folder.mkdir()
    path.write_bytes(TWO)  # before this process has opened it
    assert read(cache, ONE) == ONE and "is made again" in caplog.text
    for rewritten in (False, True):  # and in between, by another file or in the same
        if rewritten:
            path.write_bytes(TWO)
        else:
            (cache.folder / "other").write_bytes(TWO)
            os.replace(cache.folder / "other", path)
        assert read(cache, ONE) == ONE
    assert caplog.text.count("is made again") == 3


def test_a_copy_is_compared_once(cache):  # noqa: F811
    compared = []
    for _ in range(3):
        cache.open(name_of(ONE), 1000, maker(ONE)).close()
    locks_of_others = cache.folder / name_of(ONE)
    os.utime(locks_of_others, ns=(1, locks_of_others.stat().st_mtime_ns))  # another process has used it
    cache.open(name_of(ONE), 1000, maker(ONE), is_intact=compared.append).close()
    assert compared == []


@pytest.mark.parametrize("kind", ["link", "hard link"])
@pytest.mark.parametrize("name", ["{}.lock", "{}.part", "room.lock"])
def test_nothing_is_written_through_a_link(cache, tmp_path, name, kind):  # noqa: F811
    victim = tmp_path / "victim"
    victim.write_bytes(TWO)
    cache.folder.mkdir()
    place = cache.folder / name.format(name_of(ONE))
    (os.symlink if kind == "link" else os.link)(victim, place)
    problem = "is a link" if kind == "link" else "has another name"
    with pytest.raises(UserError, match=f"{place} {problem}.*; delete it"):
        read(cache, ONE)
    assert victim.read_bytes() == TWO


@pytest.mark.parametrize("name", ["{}.lock", "{}.part"])
def test_nothing_is_written_to_a_file_of_another_user(cache, name):  # noqa: F811
    if os.geteuid():
        pytest.skip("needs root, to give a file to somebody else")
    cache.folder.mkdir()
    place = cache.folder / name.format(name_of(ONE))
    place.touch(0o666)
    os.chown(place, 65534, 65534)
    with pytest.raises(UserError, match=f"{place} belongs to another user .uid 65534."):
        read(cache, ONE)


def test_a_copy_that_is_no_file_is_named(cache):  # noqa: F811
    cache.folder.mkdir()
    place = cache.folder / name_of(ONE)
    for make, problem in ((partial(os.symlink, "/dev/zero"), "is a link"), (os.mkfifo, "no regular file")):
        make(place)
        with pytest.raises(UserError, match=f"data.cache={cache.folder}: .* cannot be read .*{problem}"):
            read(cache, ONE)
        place.unlink()


def test_a_folder_that_others_may_write_to_is_named_once(cache, caplog):  # noqa: F811
    cache.folder.mkdir()
    cache.folder.chmod(0o777)
    read(cache, ONE)
    read(cache, TWO)
    assert caplog.text.count(f"data.cache={cache.folder}: other users may write to this folder") == 1


@pytest.mark.parametrize(
    "mode, uid, gid, members, shared",
    [
        (0o755, None, None, [], False),
        (0o775, None, None, [], False),  # a group of the user's own
        (0o775, None, None, ["guest"], True),
        (0o775, None, 65534, [], True),
        (0o777, None, None, [], True),
        (0o755, 65534, None, [], True),
    ],
)
def test_whether_others_may_write_to_a_folder(tmp_path, monkeypatch, mode, uid, gid, members, shared):
    if os.geteuid():
        pytest.skip("needs root, to give a folder to somebody else")
    user = pwd.getpwuid(os.geteuid())
    name = user.pw_name if gid is None else "staff"
    monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group((name, "x", number, members)))
    tmp_path.chmod(mode)
    os.chown(tmp_path, -1 if uid is None else uid, -1 if gid is None else gid)
    assert is_shared(tmp_path) == shared


def test_a_user_without_home_needs_no_cache_for_a_set_in_place(shards):
    code = """if True:
        import os, sys
        from srgan_dist.data.reader import Reader
        from srgan_dist.data.split import open_split
        from srgan_dist.storage.cache import cache_at
        split = open_split(sys.argv[1], "train", cache=cache_at())
        Reader(split).image(0)
        for name in ("HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        os.path.expanduser = lambda path: path  # as of a user whom the system does not know
        try:
            split.set.cache.folder
        except ValueError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", code, shards], capture_output=True, text=True, cwd=REPOSITORY)
    assert "this user has no home folder; give one by data.cache or --cache" in ran.stdout, ran.stderr
