import io
import sys
from types import SimpleNamespace

import pytest

from srgan_dist.utils.progress import Progress, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on only by setting clock.now."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("srgan_dist.utils.progress.time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_non_terminal_gets_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    progress = Progress("phase", 5)
    shown = []
    for seconds in (4, 10, 19, 20.5, 21):
        clock.now = 100 + seconds
        progress.update(f"after {seconds}")
        shown.append(capsys.readouterr().out)
    progress.close()
    assert shown == [
        "",
        "phase 2/5 [00:15 left] after 10\n",
        "",
        "phase 4/5 [00:05 left] after 20.5\n",
        "phase 5/5 [00:00 left] after 21\n",
    ]


def test_the_time_left_is_judged_by_the_steps_of_this_start_alone(clock, capsys):
    progress = Progress("phase", 1000, done=990)
    clock.now += 20
    progress.update("text")
    assert capsys.readouterr().out == "phase 991/1000 [03:00 left] text\n"


def test_a_new_estimate_of_all_steps_stays_until_the_next(clock, capsys):
    progress = Progress("phase", 10**9)
    clock.now += 10
    progress.update("one", total=3)
    progress.update("two")
    progress.update("three")
    assert capsys.readouterr().out == "phase 1/3 [00:20 left] one\nphase 3/3 [00:00 left] three\n"


def test_steps_without_a_text_are_counted_silently(clock, capsys):
    progress = Progress("phase", 3)
    clock.now += 60
    progress.update()
    progress.update()
    assert capsys.readouterr().out == ""
    progress.update("done")
    assert capsys.readouterr().out.startswith("phase 3/3 ")


def test_a_line_is_told_the_time_left_and_comes_at_once_when_asked(clock, capsys):
    progress = Progress("phase", None, estimated=False)
    clock.now += 1
    progress.update("first", at_once=True)
    clock.now += 9
    progress.update("second", total=7, left="01:00 left")
    clock.now += 2
    progress.update("third", total=3)
    assert capsys.readouterr().out.splitlines() == [
        "phase 1 first",
        "phase 3/3 third",
    ]


def test_print_line_prints_the_text_as_it_is(capsys):
    Progress("phase", 2).print_line("a line")
    assert capsys.readouterr().out == "a line\n"


def test_an_invisible_progress_is_silent(clock, capsys, monkeypatch):
    for stderr in (sys.stderr, Terminal()):
        monkeypatch.setattr(sys, "stderr", stderr)
        progress = Progress("phase", 1, visible=False)
        clock.now += 60
        progress.print_line("a line")
        progress.update("text")
        progress.close()
        assert capsys.readouterr().out == ""
    assert sys.stderr.getvalue() == ""


def test_a_terminal_gets_a_bar_with_the_text_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("phase", 5, done=3)
    clock.now += 60
    progress.update("psnr 20.00")
    progress.update("psnr 21.00")
    progress.close()
    last = sys.stderr.getvalue().split("\r")[-1]
    assert last.startswith("phase: 100%") and "5/5" in last and "psnr 21.00" in last
    assert capsys.readouterr().out == ""


def test_a_bar_is_told_the_time_left_and_shows_no_other(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("phase", None, estimated=False)
    progress.update("psnr 20.00", at_once=True)
    clock.now += 60
    progress.update("psnr 21.00", total=2, left="over 03:00 left")
    progress.update()
    progress.close()
    first, last = sys.stderr.getvalue().split("\r")[-2:]
    assert "1/?" in first and "psnr 20.00" in first
    assert "3/3" in last and ", over 03:00 left, psnr 21.00]" in last and "<" not in last


def test_progress_bar_hands_on_every_item_and_shows_a_bar_on_a_terminal_only(capsys, monkeypatch):
    assert list(progress_bar(iter("abc"), "reading", "file", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress_bar("abc", "reading", "file")) == ["a", "b", "c"]
    assert "reading: 100%" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()
