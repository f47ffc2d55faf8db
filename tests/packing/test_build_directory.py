"""A build that is cut short is continued by the next one, and the set is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, texture, write_folder
from PIL import Image
from test_build import digests

from srgan_dist.data.split import open_set
from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.executors import process_pool

PNG = replace(TINY, encoding="png")

KILLED = """
import json, os, signal, sys
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.executors import process_pool

def killed(results, count, act):
    if act != "pack images":
        yield from results
        return
    for taken, result in enumerate(results):
        if taken == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield result
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with process_pool(int(sys.argv[3])) as run:
        build(sys.argv[1], sys.argv[2], BuildOptions(**json.loads(sys.argv[5])), killed, run)
"""


def kill_build(tmp_path, taken, jobs=1, options=TINY, content=KILLED, *more):
    """Run a build that is killed (SIGKILL) when it has taken in as many results; returns its journal."""
    script = tmp_path / "killed.py"
    script.write_text(content)
    given = json.dumps({name: getattr(options, name) for name in options.__dataclass_fields__})
    done = subprocess.run(
        [sys.executable, script, tmp_path / "hr", tmp_path / "out", str(jobs), str(taken), given, *more],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists(), done.stderr
    (journal,) = (tmp_path / "out.building").glob("*/packed.jsonl")
    return journal


def continued(tmp_path, options=TINY):
    """Build again and compare the set with an uninterrupted one; returns the notes about an earlier build."""
    result = build(tmp_path / "hr", tmp_path / "out", options)
    build(tmp_path / "hr", tmp_path / "alone", options)
    assert (
        digests(tmp_path / "out") == digests(tmp_path / "alone") and not (tmp_path / "out.building").exists()
    )
    return [note for note in result.notes if "interrupted" in note]


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "hr", {"coal": 4, "sandstone": 5})


@pytest.mark.parametrize("encoding", ["npy", "png"])
@pytest.mark.parametrize("jobs, taken", [(1, 0), (1, 1), (1, 5), (1, 9), (2, 1), (2, 8)])
def test_a_killed_build_is_continued_to_the_same_bytes(tmp_path, source, jobs, taken, encoding):
    options = replace(TINY, encoding=encoding)
    journal = kill_build(tmp_path, taken, jobs, options)
    assert len(journal.read_text().splitlines()) == 1 + taken
    notes = [f"an interrupted build had packed {taken} of 9 images already"] if taken else []
    assert continued(tmp_path, options) == notes


ASSEMBLING = """
import os, signal
from srgan_dist.packing import build as packing
from srgan_dist.packing import assemble

def run(function, items):
    for number, item in enumerate(items):
        if function is assemble._assemble and number == int(sys.argv[6]):
            if int(sys.argv[7]):  # in the middle of a shard
                with open(item.path, "wb") as file:
                    file.write(b"x" * 3000)
            os.kill(os.getpid(), signal.SIGKILL)
        yield function(item)
"""


@pytest.mark.parametrize("begun", [0, 1])
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_build_killed_while_it_puts_shards_together_is_continued(tmp_path, source, shards, begun):
    journal = kill_assembling(tmp_path, shards, begun)
    left = len(list((journal.parent / "spool").iterdir()))
    assert left == 9 if shards == 0 else left < 9  # spools go as shards get whole
    assert continued(tmp_path, PNG) == ["an interrupted build had packed 9 of 9 images already"]


def kill_assembling(tmp_path, shards, begun=0):
    """Run a build of PNG images that is killed after this number of shards; returns its journal."""
    script = (
        KILLED.replace("import json, os, signal, sys", "import json, os, signal, sys" + ASSEMBLING)
        .replace("killed, run)", "run=run)")
        .replace("    with process_pool(int(sys.argv[3])) as run:\n    ", "")
    )
    return kill_build(tmp_path, 0, 1, PNG, script, str(shards), str(begun))


@pytest.mark.parametrize("place", ["pixels", "header", "end", "cut", "gone", "spool", "spool gone"])
def test_what_was_damaged_among_shards_and_spools_is_repaired(tmp_path, source, place):
    build(tmp_path / "hr", tmp_path / "whole", PNG)
    row = open_set(tmp_path / "whole").stored_split("train").rows[1]
    journal = kill_assembling(tmp_path, 2)
    shard = journal.parent / "set" / "train-000000.tar"
    spool = max((journal.parent / "spool").iterdir())
    if place in ("gone", "spool gone"):
        (shard if place == "gone" else spool).unlink()
    elif place == "cut":
        os.truncate(shard, int(row["hr_offset"]) + 100)
    elif place == "spool":
        flip(spool, 100)
    else:
        flip(
            shard, {"pixels": int(row["hr_offset"]) + 70, "header": 3, "end": shard.stat().st_size - 3}[place]
        )
    assert continued(tmp_path, PNG) == ["an interrupted build had packed 9 of 9 images already"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_is_continued_wherever_it_is_killed(tmp_path, jobs):
    write_folder(tmp_path / "hr", {"coal": 60}, np.uint16, (400, 400))
    options = BuildOptions(tile=200, crop=32, samples_per_shard=20)
    command = [sys.executable, "shards/build.py", tmp_path / "hr", tmp_path / "out", "--jobs", str(jobs)]
    for name in ("tile", "crop", "samples_per_shard"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for lines in (2, 12, 25):
        running = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while running.poll() is None:
            journals = list((tmp_path / "out.building").glob("*/packed.jsonl"))
            if journals and journals[0].read_bytes().count(b"\n") > lines:
                running.kill()
            time.sleep(0.001)
        output, errors = running.communicate()
        assert running.returncode == -signal.SIGKILL, (output, errors)
    (note,) = continued(tmp_path, options)
    assert int(note.split()[5]) >= 25


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["pixels", "header", "end", "cut", "gone"])
def test_what_was_damaged_since_is_repaired(tmp_path, source, place):
    build(tmp_path / "hr", tmp_path / "whole", TINY)
    row = open_set(tmp_path / "whole").stored_split("train").rows[0]
    shard = kill_build(tmp_path, 9).parent / "set" / "train-000000.tar"
    if place == "gone":
        shard.unlink()
    elif place == "cut":
        os.truncate(shard, int(row["hr_offset"]) + 100)
    else:
        flip(
            shard, {"pixels": int(row["hr_offset"]) + 7, "header": 3, "end": shard.stat().st_size - 3}[place]
        )
    assert continued(tmp_path) == ["an interrupted build had packed 9 of 9 images already"]


def test_a_line_of_the_journal_that_was_not_finished_is_done_again(tmp_path, source):
    journal = kill_build(tmp_path, 5)
    os.truncate(journal, journal.stat().st_size - 20)
    assert continued(tmp_path) == ["an interrupted build had packed 4 of 9 images already"]


@pytest.mark.parametrize(
    "damage", ["flipped", "empty", "no JSON", "too deep", "identity", "a list of nothing"]
)
def test_a_damaged_journal_means_starting_over(tmp_path, source, damage):
    journal = kill_build(tmp_path, 5)
    lines = journal.read_bytes().splitlines(keepends=True)
    if damage == "flipped":
        flip(journal, len(lines[0]) + len(lines[1]) // 2)
    elif damage == "empty":
        journal.write_bytes(b"")
    else:
        changed = {
            "no JSON": b"{\n",
            "too deep": b"[" * 200_000 + b"\n",
            "identity": lines[2],
            "a list of nothing": b"[]\n",
        }
        at = 0 if damage == "identity" else 2
        journal.write_bytes(b"".join([*lines[:at], changed[damage], *lines[at + 1 :]]))
    assert continued(tmp_path) == []


@pytest.mark.parametrize("change", ["options", "source"])
def test_another_set_starts_over(tmp_path, source, change):
    kill_build(tmp_path, 5)
    if change == "source":
        Image.fromarray(texture(77)).save(source / "coal" / "slice_0.png")
    assert (
        continued(
            tmp_path, BuildOptions(tile=80, crop=32, samples_per_shard=3, seed=int(change == "options"))
        )
        == []
    )


def test_leaks_and_notes_are_found_over_both_builds(tmp_path, source):
    Image.fromarray(np.zeros((72, 80), np.uint8)).save(source / "coal" / "slice_1.png")
    (source / "sandstone" / "slice_4.png").unlink()
    # coal/slice_0.png is in train, this in test
    Image.fromarray(texture(0)).save(source / "sandstone" / "slice_4.png")
    kill_build(tmp_path, 5)
    with pytest.raises(
        BuildError, match=r"slice_4.png: is in test and is the same picture as .*coal/slice_0.png in train"
    ):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    assert not (tmp_path / "out.building").exists()
    (source / "sandstone" / "slice_4.png").unlink()
    kill_build(tmp_path, 5)
    notes = build(tmp_path / "hr", tmp_path / "out", TINY).notes
    assert any("1 images have one grey level only" in note and "coal/slice_1.png" in note for note in notes)


def test_a_build_whose_processes_were_killed_is_continued(tmp_path, source):
    with pytest.raises(UserError, match="one of 2 processes was killed"):
        with process_pool(2) as run:
            build(tmp_path / "hr", tmp_path / "out", TINY, ended_by_death(3), run)
    assert continued(tmp_path) == ["an interrupted build had packed 3 of 9 images already"]


def ended_by_death(taken):
    """Let a process of the pool be killed after this number of results."""

    def progress(results, count, act):
        for number, result in enumerate(results):
            if number == taken and act == "pack images":
                with process_pool(2) as run:
                    list(run(die, range(2)))
            yield result

    return progress


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_interrupted_build_is_continued(tmp_path, source):
    def interrupted(results, count, act):
        for result in results:
            yield result
            if act == "pack images":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "hr", tmp_path / "out", TINY, interrupted)
    assert continued(tmp_path) == ["an interrupted build had packed 1 of 9 images already"]


def test_ctrl_c_says_so_in_one_line_and_keeps_what_is_done(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 60}, np.uint16, (400, 400))
    command = [
        sys.executable,
        "shards/build.py",
        tmp_path / "hr",
        tmp_path / "out",
        "--crop",
        "32",
        "--tile",
        "200",
        "--jobs",
        "2",
    ]
    running = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while running.poll() is None:
        journals = list((tmp_path / "out.building").glob("*/packed.jsonl"))
        if journals and journals[0].read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes
    output, errors = running.communicate()
    assert (running.returncode, errors) == (130, "interrupted\n"), output
    assert journals[0].exists()


def test_a_stage_whose_marker_was_deleted_to_unlock_it_is_continued(tmp_path, source):
    kill_build(tmp_path, 5)
    (tmp_path / "out.building" / "building.json").unlink()
    assert continued(tmp_path) == ["an interrupted build had packed 5 of 9 images already"]
