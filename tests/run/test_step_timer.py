import json
import re
from types import SimpleNamespace

import pytest
import torch
from commands import work
from conftest import tiny_config

from srgan_dist.run import step_timer as speed
from srgan_dist.run.step_timer import StepTimer, memory_mib, percentiles
from srgan_dist.training import train

CPU = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def test_percentiles_worked_by_hand():
    assert percentiles(range(101, 0, -1)) == {
        "speed/step_ms_p50": 51,
        "speed/step_ms_p95": 96,
        "speed/step_ms_p99": 100,
        "speed/step_ms_max": 101,
    }
    assert percentiles([10.0, 20.0])["speed/step_ms_p50"] == 15


def test_steps_are_timed_without_what_lies_between_begin_and_the_step_before(monkeypatch):
    clock = iter([0.0, 0.010, 0.030, 5.0, 9.0, 9.04, 10.0, 10.02])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    timed = StepTimer(CPU)
    timed.step()
    timed.step()
    first = timed.read(samples=8, seconds=0.04, waited=0.01)
    assert first["speed/step_ms_p50"] == pytest.approx(15) and first["speed/step_ms_max"] == pytest.approx(20)
    assert first["speed/samples_per_second"] == pytest.approx(200) and first[
        "speed/data_wait"
    ] == pytest.approx(0.25)
    timed.begin()  # at 5 s, before a pause
    timed.begin()  # at 9 s, after it
    timed.step()
    timed.begin()  # at 10 s, after another
    timed.step()
    second = timed.read(samples=4, seconds=0.06, waited=0.01)
    assert second["speed/step_ms_max"] == pytest.approx(40) and second["speed/step_ms_p50"] == pytest.approx(
        30
    )
    whole = timed.of_phase()
    assert whole["speed/step_ms_p50"] == pytest.approx(20) and whole["speed/step_ms_max"] == pytest.approx(40)
    assert whole["speed/samples_per_second"] == pytest.approx(120) and whole[
        "speed/data_wait"
    ] == pytest.approx(0.2)


def test_memory_is_that_of_the_process():
    before = memory_mib(torch.device("cpu"))
    # Rows of a MiB, all of them touched: more than the process has had so far
    block = torch.ones(int(before) + 64, 2**18)
    assert block.nbytes / 2**20 < memory_mib(torch.device("cpu")) < 4 * block.nbytes / 2**20


@pytest.mark.gpu
def test_on_a_gpu_the_times_are_those_of_the_device():
    timed = StepTimer(SimpleNamespace(device=torch.device("cuda"), num_processes=1))
    a = torch.rand(4096, 4096, device="cuda")
    for size in (64, 4096):
        for _ in range(20):
            a[:size, :size] @ a[:size, :size]
        timed.step()
    numbers = timed.read(samples=2, seconds=1.0, waited=0.0)
    assert 0 < numbers["speed/step_ms_p50"] < numbers["speed/step_ms_max"]  # the second step is longer
    assert numbers["speed/memory_mib"] >= 64


def test_over_ranks_the_worst_counts(shards, tmp_path):
    one, other = work("speed", tiny_config(shards, tmp_path), tmp_path / "out", 2)
    assert one == other
    assert one["speed/samples_per_second"] == pytest.approx(4) and one["speed/data_wait"] == pytest.approx(
        0.5
    )
    assert one["speed/step_ms_p50"] == pytest.approx(20)


def test_a_training_records_its_speed_and_says_it_once_a_phase(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    train(tiny_config(shards, tmp_path))
    records = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    reports = [record for record in records if "loss/generator" in record]
    assert len(reports) == 5
    for record in reports:
        assert (
            0
            < record["speed/step_ms_p50"]
            <= record["speed/step_ms_p95"]
            <= record["speed/step_ms_p99"]
            <= record["speed/step_ms_max"]
        )
        # two updates of four crops each: their times lie within the interval
        assert (
            2 * record["speed/step_ms_p50"] <= 1000 * 8 / record["speed/samples_per_second"]
            and record["speed/memory_mib"] > 50
        )
    lines = re.findall(
        r"^(\w+): [\d.]+ samples/s, an update [\d.]+ ms \(95 % within [\d.]+, 99 % within [\d.]+, the"
        r" slowest [\d.]+\),"
        r" [\d.]+% of the time waiting for data, \d+ MiB; validation took [\d.]+% of the phase, checkpoints"
        r" [\d.]+%$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert lines == ["pretrain", "adversarial"]
