import os
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from commands import TRAIN, finished, run, run_fresh, start_ranks, write_config
from conftest import tiny_config

from srgan_dist.runtime import cpu

CPU = torch.device("cpu")
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": None}  # and the command finds out by itself


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Forget a launcher's variables, and put PyTorch's threads back."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "ranks_here, world_size, threads, expected",
    [
        ("2", 4, None, 3),
        ("6", 6, None, 1),
        ("4", 4, None, 1),
        ("7", 7, None, 1),  # a share of six cores, one at least
        (None, 3, None, 2),
        ("2", 4, 5, 5),  # without a launcher all ranks are here; a number that is asked for counts
    ],
)
def test_a_rank_on_cpu_takes_its_share_of_the_cores(monkeypatch, ranks_here, world_size, threads, expected):
    if ranks_here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks_here)
    monkeypatch.setattr(cpu, "usable_cores", lambda: 6)
    torch.set_num_threads(4)
    cpu.use_cpu_threads(SimpleNamespace(device=CPU, num_processes=world_size), threads)
    assert torch.get_num_threads() == expected


def test_a_rank_on_another_device_leaves_the_threads_alone():
    torch.set_num_threads(3)
    cpu.use_cpu_threads(SimpleNamespace(device=torch.device("meta"), num_processes=1), 2)
    assert torch.get_num_threads() == 3


V1, V2 = "9:cpu:/jobs\n4:memory:/jobs/7\n", "0::/jobs/7\n"


@pytest.mark.parametrize(
    "groups, files, free",
    [
        (V2, {}, 8 * 2**20),
        (
            V2,
            {
                "jobs/7/memory.max": "max",
                "jobs/7/memory.current": "5",
                "jobs/7/memory.stat": "anon 5\ninactive_file 0",
            },
            8 * 2**20,
        ),
        (
            V2,
            {
                "jobs/7/memory.max": "3000",
                "jobs/7/memory.current": "1500",
                "jobs/7/memory.stat": "anon 1\ninactive_file 200",
            },
            1700,
        ),
        (  # the group around it
            V2,
            {
                "jobs/memory.max": "3000",
                "jobs/memory.current": "1500",
                "jobs/memory.stat": "inactive_file 200",
            },
            1700,
        ),
        (  # a container shows its own group as the top
            V2,
            {"memory.max": "3000", "memory.current": "1500", "memory.stat": "inactive_file 200"},
            1700,
        ),
        (
            V1,
            {
                "memory/jobs/7/memory.limit_in_bytes": "3000",
                "memory/jobs/7/memory.usage_in_bytes": "1500",
                "memory/jobs/7/memory.stat": "cache 9\ntotal_inactive_file 200",
            },
            1700,
        ),
        (
            V1,
            {
                "memory/memory.limit_in_bytes": "garbage",
                "memory/memory.usage_in_bytes": "1",
                "memory/memory.stat": "",
            },
            8 * 2**20,
        ),
        (None, {}, 8 * 2**20),
    ],
)
def test_free_memory_is_what_machine_and_control_groups_leave(monkeypatch, tmp_path, groups, files, free):
    monkeypatch.setattr(cpu, "ROOT", tmp_path)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    8192 kB\n")
    if groups:
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpu.free_memory() == free


def test_free_memory_is_unlimited_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "ROOT", tmp_path)
    assert cpu.free_memory() == float("inf")


@pytest.mark.parametrize(
    "seconds, chosen",
    [
        ({1: 4, 2: 3, 4: 1}, 4),
        ({1: 4, 2: 3.9, 4: 3.8}, 1),
        ({1: 1, 2: 10, 4: 10}, 1),
        ({1: 4, 2: 2, 4: 1.9}, 2),
        ({1: 4, 2: 8, 4: 3}, 4),
    ],
)
def test_the_fewest_threads_are_taken_than_which_none_is_faster_by_a_tenth(monkeypatch, seconds, chosen):
    monkeypatch.setattr(cpu, "TRIAL_SECONDS", 0.1)
    clock = [0.0]

    class Generator(torch.nn.Conv2d):
        def forward(self, lr):
            clock[0] += seconds[torch.get_num_threads()]
            return super().forward(lr)

    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    torch.set_num_threads(2)
    generator = Generator(1, 1, 1)
    medians, found = cpu.fastest_thread_count(generator, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 4)
    assert medians == pytest.approx(seconds) and found == chosen and torch.get_num_threads() == 2
    assert generator.weight.grad is None


def test_items_are_shared_out_to_threads_of_one_each_and_come_back_in_order():
    torch.set_num_threads(3)
    together = threading.Barrier(3, timeout=30)

    def work(item):
        together.wait()  # so that three are at work at a time
        time.sleep(0.01 * (item % 3 == 0))
        return item, threading.get_ident(), torch.get_num_threads()

    found = list(cpu.one_thread_each(work, range(9), CPU))
    assert [item for item, _, _ in found] == list(range(9)) and {threads for _, _, threads in found} == {1}
    assert len({ident for _, ident, _ in found}) == 3 and torch.get_num_threads() == 3


@pytest.mark.parametrize("most, at_once, each", [(2, 2, 2), (1, 1, 5), (9, 5, 1), (None, 5, 1)])
def test_fewer_items_at_a_time_share_the_threads(most, at_once, each):
    torch.set_num_threads(5)
    busy, seen = [], []

    def work(item):
        busy.append(item)
        time.sleep(0.01)
        seen.append((len(busy), torch.get_num_threads()))
        busy.remove(item)

    list(cpu.one_thread_each(work, range(12), CPU, most))
    assert max(count for count, _ in seen) <= at_once and {threads for _, threads in seen} == {each}
    assert torch.get_num_threads() == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_where_its_item_would_have_come(threads):
    torch.set_num_threads(threads)

    def items():
        yield from range(4)
        raise OSError("the source has ended early")

    found = []
    with pytest.raises(OSError, match="ended early"):
        for value in cpu.one_thread_each(lambda item: item, items(), CPU):
            found.append(value)
    assert found == [0, 1, 2, 3] and torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        list(cpu.one_thread_each(lambda item: 1 / item, [1, 0, 1], CPU))
    assert torch.get_num_threads() == threads


def test_a_training_on_cpu_starts_its_own_ranks(shards, tmp_path):
    path = write_config(tmp_path, tiny_config(shards, tmp_path, cpu_ranks=2, adversarial=None))
    done = run_fresh(*TRAIN, path, **WITHOUT_GPU)
    assert done.returncode == 0, done.stderr
    assert "on CPU: 2 ranks" in done.stdout
    assert re.search(r"^device +cpu, 1 thread a rank\nranks +2 on ", done.stdout, re.MULTILINE)
    assert (tmp_path / "tiny" / "weights" / "pretrain.safetensors").exists()
    planned = run(*TRAIN, path, "--name=planned", "--dry-run", **WITHOUT_GPU)
    assert "batch_size_per_gpu 2" in planned.stdout


def test_a_run_keeps_its_number_of_ranks(shards, tmp_path):
    path = write_config(tmp_path, tiny_config(shards, tmp_path, adversarial=None))
    assert run(*TRAIN, path, **WITHOUT_GPU).returncode == 0
    again = run(*TRAIN, path, "--cpu_ranks=null", **WITHOUT_GPU)
    assert again.returncode == 0, again.stderr
    assert re.search(r"^ranks +1 on ", again.stdout, re.MULTILINE) and "on CPU: " not in again.stdout


def test_an_error_of_a_training_on_cpu_is_printed_once(shards, tmp_path):
    path = write_config(tmp_path, tiny_config(shards, tmp_path, cpu_ranks=2))
    done = run(*TRAIN, path, "--data.lr_crop=30", **WITHOUT_GPU)
    assert done.returncode == 1 and "on CPU" not in done.stdout
    assert done.stderr.count("error: ") == 1
    assert "data.lr_crop=30 is larger than the smallest LR image" in done.stderr


def test_a_training_takes_the_threads_that_it_has_tried_before(shards, tmp_path, monkeypatch):
    from srgan_dist.training import train

    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2)
    tried = []
    monkeypatch.setattr(
        "srgan_dist.runtime.cpu.fastest_thread_count", lambda *_: tried.append(1) or ({1: 2.0, 2: 1.0}, 2)
    )
    config = tiny_config(shards, tmp_path, cpu_threads=None, adversarial=None)
    assert train(config).state.cpu_threads == 2 and torch.get_num_threads() == 2 and len(tried) == 1
    torch.set_num_threads(1)
    assert train(config).state.cpu_threads == 2 and torch.get_num_threads() == 2 and len(tried) == 1


ON_ITS_CORES = """
import json, os, runpy, sys
cores, config = sys.argv[1:]
os.sched_setaffinity(0, json.loads(cores)[: None if os.environ["RANK"] == "0" else 1])
sys.argv = ["launch/train.py", config]
runpy.run_path("launch/train.py", run_name="__main__")
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
def test_ranks_that_see_different_numbers_of_cores_agree_on_their_threads(shards, tmp_path):
    path = write_config(tmp_path, tiny_config(shards, tmp_path, cpu_threads=None, adversarial=None))
    cores = sorted(os.sched_getaffinity(0))
    ranks = start_ranks("-c", ON_ITS_CORES, cores, path, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    zero, one = map(finished, ranks)
    assert (zero.returncode, one.returncode) == (0, 0), zero.stderr + one.stderr
    assert re.search(r"^device +cpu, 1 thread a rank\nranks +2 on ", zero.stdout, re.MULTILINE)


@pytest.mark.skipif(not cpu.has_glibc(), reason="other C libraries are left alone")
@pytest.mark.parametrize("device, kept", [("cpu", True), ("cuda", False)])
def test_freed_memory_is_kept_for_the_next_update_on_cpu(device, kept):
    program = f"""
import resource, torch
from srgan_dist.runtime.cpu import keep_freed_memory
keep_freed_memory({device!r})
faults = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-10:]))  # the first ones may each take another place
"""
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) < 1000) == kept  # of ten times 128 MiB in pages of 4 KiB
