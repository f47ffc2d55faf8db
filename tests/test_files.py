import hashlib

import pytest

from srgan_dist.files import sha256_of, written_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_gets_its_name_when_the_block_ends(tmp_path, durable):
    path = tmp_path / "file.txt"
    with written_whole(path, durable) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists() and unfinished.parent == tmp_path  # so on the same disk
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_left_when_the_block_raises(tmp_path, error, durable):
    with pytest.raises(error), written_whole(tmp_path / "file.txt", durable) as unfinished:
        unfinished.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_the_old_file_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError), written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise ValueError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_replaced_at_once_and_not_rewritten(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with open(path) as reader:
        with written_whole(str(path)) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new" and reader.read() == "old"


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), written_whole(path):
        pass
    assert path.read_text() == "old"


def test_what_a_crash_left_behind_does_not_disturb(tmp_path):
    path = tmp_path / "file.txt"
    with written_whole(path) as unfinished:
        unfinished.write_text("one")
    unfinished.write_text("left by a crash, and longer")
    with written_whole(path) as unfinished:
        unfinished.write_text("two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 9000])
def test_sha256_is_that_of_all_bytes(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
