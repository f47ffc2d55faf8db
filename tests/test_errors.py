import pytest

from srgan_dist.errors import UserError, reported


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def report(error, capsys):
    """Raise an error where commands report theirs; returns the exit code and what stderr says."""
    with pytest.raises(SystemExit) as ended, reported():
        raise error
    out, err = capsys.readouterr()
    assert out == ""
    return ended.value.code, err


@pytest.mark.parametrize("error, text", [
    (UserError("data.path=x is wrong; use y"), "error: data.path=x is wrong; use y\n"),
    (OSError("the disk is full"), "error: the disk is full\n"),
    (FileNotFoundError(2, "No such file or directory", "x.png"), "error: [Errno 2] No such file or directory: 'x.png'\n"),
])
def test_what_a_user_can_mend_is_one_line_and_exit_code_1(capsys, error, text):
    assert report(error, capsys) == (1, text)


def test_an_interrupt_is_a_word_and_exit_code_130(capsys):
    assert report(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_a_launched_rank_says_its_number(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert report(UserError("the disk is gone"), capsys) == (1, "error: rank 1: the disk is gone\n")
    assert report(KeyboardInterrupt(), capsys) == (130, "rank 1: interrupted\n")


def test_a_single_launched_process_says_no_number(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert report(UserError("wrong"), capsys) == (1, "error: wrong\n")


@pytest.mark.parametrize("error", [ValueError("ours"), TypeError("ours"), RuntimeError("ours"), SystemExit(3)])
def test_any_other_error_goes_through_as_it_is(capsys, error):
    with pytest.raises(type(error)) as raised, reported():
        raise error
    assert raised.value is error and capsys.readouterr().err == ""


def test_without_an_error_nothing_happens(capsys):
    with reported():
        pass
    assert capsys.readouterr() == ("", "")
