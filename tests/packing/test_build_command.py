import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TINY, write_folder
from test_build import digests, run

from srgan_dist.packing import pack
from srgan_dist.packing.build import build
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import process_pool


def test_the_commands(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    options = ("--tile", "80", "--crop", "32")
    built = run("shards/build.py", tmp_path / "hr", tmp_path / "out", *options)
    assert built.returncode == 0 and "coal" in built.stdout and "written in" in built.stdout, built.stderr
    again = run("shards/build.py", tmp_path / "hr", tmp_path / "out", *options)
    assert again.returncode == 0 and "nothing was written" in again.stdout
    (tmp_path / "hr" / "coal" / "slice_0.png").write_bytes(b"")
    failed = run("shards/build.py", tmp_path / "hr", tmp_path / "other", *options)
    assert failed.returncode == 1 and "slice_0.png" in failed.stderr and "Traceback" not in failed.stderr
    summary = run("shards/summarize.py", tmp_path / "out", "--verify")
    assert summary.returncode == 0 and "every byte is as it was written" in summary.stdout


def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4, "sandstone": 5})
    for jobs in (1, 3):
        built = run(
            "shards/build.py",
            tmp_path / "hr",
            tmp_path / f"jobs{jobs}",
            "--tile",
            "40",
            "--crop",
            "32",
            "--jobs",
            str(jobs),
        )
        assert built.returncode == 0, built.stderr
    assert digests(tmp_path / "jobs1") == digests(tmp_path / "jobs3")
    wrong = run("shards/build.py", tmp_path / "hr", tmp_path / "none", "--jobs", "0")
    assert wrong.returncode == 2 and "--jobs 0 must be 1 or more" in wrong.stderr


def test_sources_may_be_packed_in_any_order_by_any_executor(tmp_path):
    def backwards(work, jobs):
        return reversed([work(job) for job in reversed(jobs)])

    write_folder(tmp_path / "hr", {"coal": 4, "sandstone": 5})
    seen = []
    build(
        tmp_path / "hr",
        tmp_path / "one",
        TINY,
        lambda results, count, act: (seen.append((i, count, act)) or r for i, r in enumerate(results)),
    )
    assert seen == [(i, 9, act) for act in ("hash files", "pack images") for i in range(9)]
    build(tmp_path / "hr", tmp_path / "other", TINY, run=backwards)
    with ThreadPoolExecutor(3) as pool:
        build(tmp_path / "hr", tmp_path / "threads", TINY, run=pool.map)
    assert digests(tmp_path / "one") == digests(tmp_path / "other") == digests(tmp_path / "threads")


def test_a_process_that_is_killed_while_packing_is_an_error(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    with pytest.raises(
        UserError,
        match="one of 2 processes was killed, perhaps for want of memory; try again with fewer --jobs",
    ):
        with process_pool(2) as mapped:
            build(
                tmp_path / "hr",
                tmp_path / "out",
                TINY,
                run=lambda work, jobs: mapped(die if work is pack.pack else work, jobs),
            )
    assert not (tmp_path / "out").exists()


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_notes_about_names_that_are_no_text_are_printed(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    (tmp_path / "hr" / "coal" / "note\udcff.txt").write_text("mine")
    built = run("shards/build.py", tmp_path / "hr", tmp_path / "out", "--tile", "80", "--crop", "32")
    assert built.returncode == 0 and r"left out: 1 .txt (note\udcff.txt)" in built.stdout, built.stderr
