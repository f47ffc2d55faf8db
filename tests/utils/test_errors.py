import subprocess
import sys

import pytest
from conftest import REPOSITORY

from srgan_dist.utils.errors import UserError, cli_errors, masked


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def report(error, capsys):
    """Raise an error where commands report theirs; returns the exit code and stderr."""
    with pytest.raises(SystemExit) as ended, cli_errors():
        raise error
    out, err = capsys.readouterr()
    assert out == ""
    return ended.value.code, err


@pytest.mark.parametrize(
    "error, text",
    [
        (UserError("data.path=x is wrong; use y"), "error: data.path=x is wrong; use y\n"),
        (OSError("the disk is full"), "error: the disk is full\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.png"),
            "error: [Errno 2] No such file or directory: 'x.png'\n",
        ),
    ],
)
def test_an_error_of_the_user_is_one_line_and_exit_code_1(capsys, error, text):
    assert report(error, capsys) == (1, text)


def test_an_interrupt_is_a_word_and_exit_code_130(capsys):
    assert report(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_a_launched_rank_prints_its_number(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert report(UserError("the disk is gone"), capsys) == (1, "error: rank 1: the disk is gone\n")
    assert report(KeyboardInterrupt(), capsys) == (130, "rank 1: interrupted\n")


def test_a_single_launched_process_prints_no_number(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert report(UserError("wrong"), capsys) == (1, "error: wrong\n")


@pytest.mark.parametrize(
    "error", [ValueError("ours"), TypeError("ours"), RuntimeError("ours"), SystemExit(3)]
)
def test_any_other_error_goes_through_as_it_is(capsys, error):
    with pytest.raises(type(error)) as raised, cli_errors():
        raise error
    assert raised.value is error and capsys.readouterr().err == ""


def test_without_an_error_nothing_happens(capsys):
    with cli_errors():
        pass
    assert capsys.readouterr() == ("", "")


def ended(block, reads=True):
    """Run a block inside cli_errors() in a process of its own; without `reads` its stdout is closed."""
    code = "import os, sys\nfrom srgan_dist.utils.errors import UserError, cli_errors\nwith cli_errors():\n"
    code += "\n".join(f"    {line}" for line in block.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not reads:
        process.stdout.close()
        process.stdout = None
    stdout, stderr = process.communicate("go\n")
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_of_stdout_that_stops_is_no_error(lines):
    code, _, stderr = ended(
        f"sys.stdin.readline()\nfor i in range({lines}):\n    print('a table')", reads=False
    )
    assert (code, stderr) == (141, "")


def test_another_broken_pipe_is_an_error():
    code, stdout, stderr = ended("print('a table')\nraise BrokenPipeError(32, 'Broken pipe')")
    assert (code, stdout, stderr) == (1, "a table\n\n", "error: [Errno 32] Broken pipe\n")


def test_an_error_without_words_is_called_by_its_type(capsys):
    assert report(OSError(), capsys) == (1, "error: OSError\n")


def test_names_that_are_no_text_are_printed():
    assert ended(r"print('slice\udcff.png')") == (0, "slice\\udcff.png\n", "")


def test_a_process_without_stdout_can_end():
    assert ended("sys.stdout = None") == (0, "", "")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("INPUT=https://u:pw@h/x is a URL", "INPUT=https://***@h/x is a URL"),
        ("'https:/u:p/w@h/x'", "'https:/***@h/x'"),
        ("https://a@b:pw@h:80/x?sig=1", "https://***@h:80/x?***"),
        ("s3://bucket/a.tar?versionId=1 and s3://k@b/x", "s3://bucket/a.tar?*** and s3://***@b/x"),
        ("https://h:8080/set@2/x#part", "https://h:8080/set@2/x#***"),
        ("https://host/folder, without ?, # and ::", "https://host/folder, without ?, # and ::"),
        ("scans/a@b:c?d#e.png", "scans/a@b:c?d#e.png"),
    ],
)
def test_no_message_shows_the_secrets_of_a_url(capsys, text, shown):
    assert masked(text) == str(UserError(text)) == shown
    assert report(OSError(text), capsys) == (1, f"error: {shown}\n")
