import signal
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
    "error, text",
    [
        (MemoryError(), "the memory does not suffice"),
        (MemoryError("a.tar does not fit into memory"), "a.tar does not fit into memory"),
        (RuntimeError("CUDA out of memory.\nmany lines"), "CUDA out of memory."),
    ],
)
def test_a_lack_of_memory_is_one_line(capsys, error, text):
    words = f"error: {text}; use fewer processes, or smaller tiles, batches or images\n"
    assert report(error, capsys) == (1, words)


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


def ended(block, reads=True, setup=""):
    """Run a block inside cli_errors(), after `setup`, in a process of its own; without `reads` its stdout is
    closed. Returns exit code, stdout and stderr.
    """
    code = f"import os, sys\nfrom srgan_dist.utils.errors import UserError, cli_errors\n{setup}\n"
    code += "with cli_errors():\n"
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
    assert (code, stdout, stderr) == (1, "a table\n", "error: [Errno 32] Broken pipe\n")


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


SIGNALLED = """
import os, signal, time
from pathlib import Path
from srgan_dist.utils.files import atomic_write
with atomic_write({path!r}) as unfinished:
    unfinished.write_text("half")
    for _ in range({times}):
        os.kill(os.getpid(), {number})
    time.sleep(60)
"""


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize(
    "number, words",
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
)
def test_a_signal_ends_a_command_after_it_has_cleaned_up_however_often_it_comes(
    tmp_path, number, words, times
):
    code = SIGNALLED.format(path=str(tmp_path / "file"), number=int(number), times=times)
    assert ended(code) == (128 + number, "", f"{words}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_hangs_in_a_library_ends_at_the_second_signal():
    hangs = """
import ctypes, os, signal, threading
for seconds in (0.1, 0.7):
    threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGTERM]).start()
signals.ONE_EVENT_SECONDS = 0.5
for _ in range(600):
    ctypes.CDLL(None).usleep(100_000_000)  # Python hears of no signal meanwhile
"""
    assert ended(hangs, setup="from srgan_dist.utils import signals")[0] == 128 + signal.SIGTERM


def test_a_process_that_a_library_keeps_from_hearing_the_only_signal_ends_soon():
    hangs = """
import ctypes, os, signal, threading
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
signals.UNHEARD_SECONDS = 0.2
mutex = ctypes.create_string_buffer(64)
ctypes.CDLL(None).pthread_mutex_lock(mutex)
ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
    assert ended(hangs, setup="from srgan_dist.utils import signals")[0] == 128 + signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored():
    block = "os.kill(os.getpid(), signal.SIGHUP)\nprint('goes on')"
    setup = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert ended(block, setup=setup) == (0, "goes on\n", "")


def test_a_training_that_has_saved_ends_with_85_whatever_signals_follow():
    block = """
from srgan_dist.utils.errors import TrainingStopped
from srgan_dist.utils.signals import HandledSignals
class Recorded(HandledSignals):
    def handle(self, number):
        self.number = number
with Recorded([signal.SIGTERM]) as recorded:
    os.kill(os.getpid(), signal.SIGTERM)
    while not recorded.heard:
        pass
os.kill(os.getpid(), signal.SIGTERM)
raise TrainingStopped
"""
    assert ended(block, setup="import signal") == (85, "", "")


def test_an_output_that_has_no_room_is_an_error_of_the_command():
    code, _, stderr = ended("print('a table')", setup="os.dup2(os.open('/dev/full', os.O_WRONLY), 1)")
    assert code == 1 and "error: stdout cannot be written ([Errno 28] No space left on device)" in stderr
