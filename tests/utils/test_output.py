"""Output that nobody reads, has no room or is stuck: it is left out, and ends nothing."""

import fcntl
import os
import sys
import threading

import pytest
from conftest import full_disk

from srgan_dist.utils.output import Output, surviving_output


@pytest.fixture
def pipe():
    """The ends of a pipe of 4096 bytes: (number to read from, text stream to write to)."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with open(read, "rb", closefd=False), open(write, "w", buffering=4096) as stream:
        yield read, stream


def test_text_for_a_reader_that_has_gone_is_dropped(pipe):
    read, stream = pipe
    output = Output(stream)
    assert output.write("read\n") == 5 and os.read(read, 99) == b"read\n" and output.fault is None
    os.close(read)
    for _ in range(3):
        print("lost" * 9999, file=output, flush=True)
    assert isinstance(output.fault, BrokenPipeError)
    stream.flush()  # as Python does at its exit


def test_control_characters_do_not_reach_the_terminal(pipe):
    read, stream = pipe
    text = "rock\x1b]0;title\x07\x9b2J\x00.tif \u00e9\tc\r\x1b[A\n"
    assert Output(stream).write(text) == len(text)
    assert os.read(read, 99).decode() == "rock\\x1b]0;title\\x07\\x9b2J\\x00.tif \u00e9\tc\r\x1b[A\n"


def test_text_that_a_disk_has_no_room_for_is_dropped_and_later_text_written(tmp_path, caplog):
    with open(tmp_path / "log", "w") as stream:
        output = Output(stream, patience=1)
        with full_disk(4):
            output.write("one\n")
            output.write("two\n")
            output.write("three\n")
        output.write("four\n")
    assert (tmp_path / "log").read_text() == "one\nfour\n"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'log'} cannot be written ([Errno 27] File too large); what has no room is left out"
    ]


def test_a_reader_that_stops_reading_is_waited_for_but_not_by_a_training(pipe):
    read, stream = pipe
    output = Output(stream, patience=0.05)
    output.write("x" * 5000)
    assert output.stuck and output.fault is None
    assert 0 < len(os.read(read, 9999)) < 5000
    output.write("again\n")
    assert os.read(read, 9999) == b"again\n"


def test_a_closed_stream_is_no_error(tmp_path):
    stream = open(tmp_path / "log", "w")  # noqa: SIM115
    stream.close()
    output = Output(stream)
    output.write("lost")
    assert isinstance(output.fault, ValueError)


def test_a_pipe_that_does_not_block_gets_all_text_outside_of_a_training(pipe):
    read, stream = pipe
    os.set_blocking(stream.fileno(), False)
    seen = []

    def reads():
        while sum(seen) < 50_000:
            seen.append(len(os.read(read, 1000)))

    reader = threading.Thread(target=reads)
    reader.start()
    output = Output(stream)
    output.write("y" * 50_000)
    reader.join(60)
    assert sum(seen) == 50_000 and output.fault is None


def test_the_streams_are_replaced_in_the_block_only_and_the_inner_block_has_faults_of_its_own(capsys):
    before = sys.stdout, sys.stderr
    with surviving_output():
        outer = sys.stdout
        with surviving_output(patience=1):
            assert sys.stdout.stream is outer.stream is before[0] and sys.stdout is not outer
            print("out")
            print("err", file=sys.stderr)
        assert sys.stdout is outer
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr() == ("out\n", "err\n")
