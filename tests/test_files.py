import errno
import os

import pytest

from srgan_dist.errors import UserError
from srgan_dist.files import written_whole


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    target = tmp_path / "a.txt"
    with written_whole(target) as one, written_whole(target) as other:
        one.write_text("one")
        other.write_text("other")
        for path in (one, other):
            assert path.name.startswith(".a.txt.") and path.name.endswith(".unfinished") and path.parent == tmp_path
    assert target.read_text() == "one"  # the last to finish, whole
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("durable", [False, True])
def test_an_existing_file_is_replaced_unless_that_is_ruled_out(tmp_path, durable):
    target = tmp_path / "a.txt"
    for text in ("old", "new"):
        with written_whole(target, durable) as path:
            path.write_text(text)
    assert target.read_text() == "new"
    with pytest.raises(UserError, match="a.txt exists by now and is left as it is; give another name"):
        with written_whole(target, durable, replace=False) as path:
            path.write_text("newer")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "new"


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_name_that_is_free_is_taken_on_any_file_system(tmp_path, monkeypatch, links):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a.txt"
    with written_whole(target, replace=False) as path:
        path.write_text("first")
    with pytest.raises(UserError, match="left as it is"), written_whole(target, replace=False) as path:
        path.write_text("second")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "first"
