import errno
import hashlib
import os

import numpy as np
import pytest
from conftest import full_disk

from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, beside, open_regular, sha256_of, unwritable_refused


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_gets_its_name_when_the_block_ends(tmp_path, durable):
    path = tmp_path / "file.txt"
    with atomic_write(path, durable) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists() and unfinished.parent == tmp_path  # so on the same disk
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_left_when_the_block_raises(tmp_path, error, durable):
    with pytest.raises(error), atomic_write(tmp_path / "file.txt", durable) as unfinished:
        unfinished.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_the_old_file_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise ValueError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_replaced_at_once_and_not_rewritten(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with open(path) as reader:
        with atomic_write(str(path)) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new" and reader.read() == "old"


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 9000])
def test_sha256_is_that_of_all_bytes(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_write(target) as one, atomic_write(target) as other:
        one.write_text("one")
        other.write_text("other")
        for path in (one, other):
            assert (
                path.name.startswith(".a.txt.")
                and path.name.endswith(".unfinished")
                and path.parent == tmp_path
            )
    assert target.read_text() == "one"  # the last to finish, whole
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("durable", [False, True])
def test_an_existing_file_is_replaced_unless_replace_is_false(tmp_path, durable):
    target = tmp_path / "a.txt"
    for text in ("old", "new"):
        with atomic_write(target, durable) as path:
            path.write_text(text)
    assert target.read_text() == "new"
    with pytest.raises(UserError, match="a.txt exists by now and is left as it is; give another name"):
        with atomic_write(target, durable, replace=False) as path:
            path.write_text("newer")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "new"


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_name_that_is_free_is_taken_on_any_file_system(tmp_path, monkeypatch, links):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a.txt"
    with atomic_write(target, replace=False) as path:
        path.write_text("first")
    with pytest.raises(UserError, match="left as it is"), atomic_write(target, replace=False) as path:
        path.write_text("second")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "first"


def write_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(9999))


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(bytes(9999)), write_array])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, write):
    with full_disk(5000), pytest.raises(OSError) as raised, atomic_write(tmp_path / "file.npy") as unfinished:
        write(unfinished)
    assert f"{tmp_path / 'file.npy'}" in str(raised.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_an_error_of_the_system_names_the_file_and_keeps_its_number(tmp_path, number):
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "file.txt"):
        raise OSError(number, os.strerror(number))
    assert str(raised.value) == f"[Errno {number}] {os.strerror(number)}: '{tmp_path / 'file.txt'}'"


def test_a_folder_that_is_missing_is_an_error_of_the_file_and_not_of_its_unfinished_one(tmp_path):
    path = tmp_path / "nowhere" / "file.txt"
    with pytest.raises(FileNotFoundError) as raised, atomic_write(path) as unfinished:
        unfinished.write_text("lost")
    assert raised.value.filename == str(path)


def test_an_error_of_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "file.txt"):
        open(tmp_path / "source")
    assert raised.value.filename == str(tmp_path / "source")


@pytest.mark.parametrize("name", ["n" * 255, "\u00e9" * 127, "\U0001f98e" * 63])
def test_a_file_may_have_the_longest_name_that_there_is(tmp_path, name):
    with atomic_write(tmp_path / name) as unfinished:
        unfinished.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "number, way",
    [
        (errno.ENOSPC, "Make room"),
        (errno.EDQUOT, "Make room"),
        (errno.EACCES, "Restore the right"),
        (errno.EROFS, "Restore the right"),
        (errno.ENAMETOOLONG, "Choose shorter names"),
        (errno.EIO, "Choose another place"),
    ],
)
def test_the_way_out_is_that_of_the_error(number, way):
    with pytest.raises(UserError) as raised, unwritable_refused("out=x", lambda: "It needs 1 byte"):
        raise OSError(number, os.strerror(number))
    text = f"out=x cannot be written ([Errno {number}] {os.strerror(number)}). {way}"
    assert str(raised.value).startswith(text) and str(raised.value).endswith(". It needs 1 byte")


def test_a_file_of_somebody_else_is_no_lack_of_room(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no regular file"), unwritable_refused("out=x"):
        open_regular(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "岩" * 85, "a.tif"])
def test_a_name_beside_another_is_a_name(tmp_path, name):
    path = tmp_path / name
    other = path.with_name(name[:-1] + "b")
    made = [beside(each, ".unfinished", hidden=True) for each in (path, other)]
    for each in made:
        each.touch()  # the system takes it
    assert len(set(made)) == 2 and made[0] == beside(path, ".unfinished", hidden=True)
    assert beside(tmp_path / "a.tif", ".unfinished", hidden=True).name == ".a.tif.unfinished"
