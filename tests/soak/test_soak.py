"""The soak for ten minutes, and its checks: each finds what it looks for."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import RANKS, run, start
from invariants import (
    BEGUN,
    KNOWN,
    MIB,
    Memory,
    any_files,
    damaged_files,
    descendants,
    differences,
    leftover_files,
    leftover_processes,
    runs,
    suspended,
    wrong_order,
    wrong_records,
)
from whole_runs import config_of, contents, on_cpu_and_quick

from srgan_dist.data.sampler import slots_of
from srgan_dist.run.checkpoint import list_checkpoints
from srgan_dist.training import train


@pytest.mark.slow
def test_a_soak_of_ten_minutes_finds_no_fault(tmp_path):
    seed = os.environ.get("SOAK_SEED", "0")
    words = ("--seconds", "600", "--seed", seed, "--out", tmp_path / "soak")
    output, errors = start(sys.executable, "tests/soak/soak.py", *words).communicate()
    assert "0 faults in" in output, output + errors
    summary = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert summary["faults"] == [] and summary["kinds"]["finish"]["events"] > 0
    assert summary["events"] == sum(kind["events"] for kind in summary["kinds"].values()) > 20


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A finished run that has a record and a checkpoint of every update."""
    output = tmp_path_factory.mktemp("whole")
    with on_cpu_and_quick():
        train(config_of(shards, output, log_every=1))
    return output / "run"


@pytest.fixture
def finished(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_a_run_in_order_has_no_fault(whole, finished):
    faults = [*wrong_records(finished, 4), *damaged_files(finished), *leftover_files(finished)]
    assert [*faults, *differences(contents(finished), contents(whole))] == []


def flip_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_doctored_weights_file_is_reported(whole, finished):
    flip_last_bit(finished / "weights" / "pretrain.safetensors")
    (fault,) = differences(contents(finished), contents(whole))
    assert "pretrain.safetensors (weights) is not that of the undisturbed run" in fault


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], ["updates [1.0, 2.0, ", "2 records"]),
        (lambda lines: lines[:2] + lines[3:], ["updates [1.0, 2.0, "]),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ["does not ascend", "updates [2.0, 1.0, "]),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], ["has no end"]),
        (lambda lines: lines[:5], ["step-00000015 is saved"]),
    ],
    ids=["doubled", "missing", "out of order", "cut off", "too few"],
)
def test_wrong_records_are_reported(finished, change, words):
    path = finished / "metrics.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    faults = "\n".join(wrong_records(finished, 4))
    assert faults and words[0] in faults


def test_a_validation_that_is_recorded_twice_is_reported(whole, finished):
    path = finished / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if "val/psnr" in line)
    path.write_text("".join([*lines[: number + 1], *lines[number:]]))
    (fault,) = wrong_records(finished, 4)
    assert "recorded twice: [(12, 'val/" in fault
    assert list(differences(contents(finished), contents(whole)))


def test_a_damaged_checkpoint_and_damaged_weights_are_reported(finished):
    newest = list_checkpoints(finished / "checkpoints")[0]
    flip_last_bit(newest / "generator.safetensors")
    (finished / "weights" / "adversarial.safetensors").write_bytes(b"")
    checkpoint, weights = damaged_files(finished)
    assert "generator.safetensors is not what was saved" in checkpoint and "adversarial" in weights
    assert len(list(damaged_files(finished, known=newest))) == 1


def test_a_lost_checkpoint_is_reported(whole, finished):
    shutil.rmtree(list_checkpoints(finished / "checkpoints")[0])
    assert list(differences(contents(finished), contents(whole))) == ["there is no step-00000015"]


@pytest.mark.parametrize("name", [".config.yaml.0a1b.unfinished", f"{64 * 'a'}.part", f"{64 * 'a'}.lock"])
def test_a_left_file_is_reported(finished, name):
    (finished / "weights" / name).touch()
    assert list(leftover_files(finished)) == [f"{finished / 'weights' / name} is left"]
    assert list(any_files(finished / "weights" / "best")) != []


@pytest.mark.parametrize(
    "name, is_known",
    [
        (".metrics.jsonl.0a1b2c3d.unfinished", True),
        ("step-00000012.unfinished", True),
        ("step-00000012.leaving.unfinished", True),
        ("step-00000012.old", True),
        (f"{64 * 'a'}.part", True),
        (".hidden", False),
        ("config.yaml.tmp", False),
        ("other.part", False),
    ],
)
def test_a_kill_leaves_files_of_known_names_alone(tmp_path, name, is_known):
    (tmp_path / name).touch()
    assert list(leftover_files(tmp_path)) == [f"{tmp_path / name} is left"]
    assert (list(leftover_files(tmp_path, known=KNOWN)) == []) == is_known


def test_an_end_leaves_the_beginning_of_a_copy_alone(tmp_path):
    for suffix in ("part", "lock"):
        (tmp_path / f"{64 * 'a'}.{suffix}").touch()
    assert list(leftover_files(tmp_path, known=BEGUN)) == [f"{tmp_path / (64 * 'a')}.lock is left"]


def test_a_suspended_process_runs_afterwards():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    with suspended([child.pid]):
        assert not runs(child.pid)
    assert runs(child.pid)
    child.kill()
    child.wait()
    assert not runs(child.pid)


def test_a_left_process_is_reported_and_ended():
    before = descendants(os.getpid()).keys()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    (fault,) = leftover_processes(os.getpid(), before, seconds=0.1)
    assert fault.startswith(f"process {child.pid} is left: ") and fault.endswith("time.sleep(100)")
    assert child.wait() == -9 and list(leftover_processes(os.getpid(), before, seconds=0)) == []


def test_memory_that_grows_is_reported():
    growing = "kept = b''\nwhile size := int(input()): kept += bytes([1]) * size; print(flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", growing], **pipes) as process:

        def grow(size):
            process.stdin.write(f"{size}\n")
            process.stdout.readline()

        memory = Memory(growth=16 * MIB)
        grow(1)
        assert list(memory.grown([process.pid])) == [] == list(memory.grown([process.pid]))
        grow(32 * MIB)
        (fault,) = memory.grown([process.pid])
        assert fault.startswith(f"process {process.pid} has grown from ")
        grow(0)


def note(folder, order, repeated=()):
    """Write the notes of two ranks with batches of 4 that take images in an order, some updates again."""
    folder.mkdir()
    for rank in range(2):
        lines = [[update, 0, [order[slot] for slot in slots_of(update, rank, 2, 4)]] for update in range(3)]
        lines += [[update, 0, images] for update, images in repeated] if rank else []
        (folder / f"{rank}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "order, repeated, words",
    [
        ([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0], [(0, [2, 3])], None),
        ([0, 1, 2, 3, 4, 4, 5, 4, 3, 2, 1, 0], [], "epoch 0 had the images [0, 1, 2, 3, 4, 4]"),
        ([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 6], [], "epoch 1 had the images"),
        ([0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0], [(0, [2, 4])], "rank 1 took other images for update 0"),
    ],
    ids=["right", "doubled", "another", "other after a kill"],
)
def test_an_epoch_without_each_image_once_is_reported(tmp_path, order, repeated, words):
    note(tmp_path / "seen", order, repeated)
    faults = list(wrong_order(tmp_path / "seen", 6, 4, 3))
    assert (words is None and faults == []) or words in faults[0]


def test_an_unfinished_run_may_lack_images_but_has_none_twice(tmp_path):
    def faults(name, order):
        note(tmp_path / name, order)
        return list(wrong_order(tmp_path / name, 6, 4, 6, finished=False))

    assert faults("right", [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]) == []
    (fault,) = faults("doubled", [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 1])
    assert "epoch 1 had the images" in fault
    assert list(wrong_order(tmp_path / "not begun", 6, 4, 6, finished=False)) == []


# Faults that the soak has found


def test_the_launcher_leaves_nothing_in_the_folder_of_temporary_files(tmp_path):
    (tmp_path / "rank.py").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    script = ("--standalone", "--nproc_per_node=1", tmp_path / "rank.py")
    done = run(*RANKS, *script, TMPDIR=str(temporary))
    assert done.returncode == 0 and list(any_files(temporary)) == [], done.stderr
