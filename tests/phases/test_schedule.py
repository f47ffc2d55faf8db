"""How the learning rate goes over a training, as the log tells it."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
from conftest import tiny_config

from srgan_dist.phases.schedule import Constant, Cosine, Exponential
from srgan_dist.training import train

COSINE = [1.0, 0.8535534, 0.5, 0.1464466]  # (1 + cos x) / 2 at no, one, two, three eighths of a turn
L1 = {"losses": {"pixel": {"name": "l1"}}}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def logged(shards, tmp_path, pretrain, adversarial=None):
    """Train with these settings of the phases; returns the records of each phase, one per update."""
    phases = {"pretrain": pretrain | L1, "adversarial": adversarial and adversarial | L1}
    config = tiny_config(shards, tmp_path, log_every=1, num_sample_images=0, **phases)
    train(config)
    records = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "lr/generator" in record]
    return [r for r in records if "lr/discriminator" not in r], [
        r for r in records if "lr/discriminator" in r
    ]


def rates(records, name="generator"):
    return [record[f"lr/{name}"] for record in records]


@pytest.mark.parametrize(
    "progress, share", [*zip((0, 0.25, 0.5, 0.75), COSINE, strict=True), (2 / 3, 0.25), (1, 0)]
)
def test_annealing_follows_half_a_cosine_wave(progress, share):
    assert Cosine(name="cosine").learning_rate(2.0, 9, progress) == pytest.approx(2.0 * share, abs=1e-7)


def test_a_constant_rate_stays_and_an_exponential_one_falls_by_steps_alone():
    assert Constant(name="constant").learning_rate(0.3, 10**6, 0.9) == 0.3
    exponential = Exponential(name="exponential", decay_every=1000)
    assert exponential.learning_rate(1.0, 2000, 0.5) == pytest.approx(0.01)
    assert exponential.learning_rate(1.0, 0, 1.0) == 1.0


def test_an_annealed_run_logs_half_a_cosine_for_each_phase_and_network(shards, tmp_path):
    common = {"lr_schedule": {"name": "cosine"}}
    one, two = logged(
        shards,
        tmp_path,
        {"steps": 4, "learning_rate": 1e-3} | common,
        {"steps": 2, "learning_rate": 2e-3, "discriminator_learning_rate": 6e-3} | common,
    )
    assert rates(one) == pytest.approx([1e-3 * share for share in COSINE], rel=1e-6)
    assert rates(two) == pytest.approx([2e-3, 1e-3]) and rates(two, "discriminator") == pytest.approx(
        [6e-3, 3e-3]
    )


def test_a_run_that_ends_by_time_anneals_by_the_time_that_is_over(shards, tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("srgan_dist.run.meter.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    settings = {
        "steps": 10**9,
        "max_seconds": 40,
        "lr_schedule": {"name": "cosine"},
        "learning_rate": 1e-3,
    }
    records, _ = logged(shards, tmp_path, settings)
    falling = rates(records)
    assert len(falling) > 4 and all(later < earlier for earlier, later in itertools.pairwise(falling))
    seconds = [4 / record["speed/samples_per_second"] for record in records]  # each update has 4 crops
    over = [sum(seconds[:n]) / 40 for n in range(len(records) + 1)]
    assert falling == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * share)) / 2 for share in over[:-1]], abs=1e-9
    )
    assert over[-2] < 1 <= over[-1]


def test_the_logged_rates_fall_tenfold_every_decay_every_updates_of_a_phase(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_dist.phases.schedule.EPOCH", 2)
    one, two = logged(
        shards,
        tmp_path,
        {"steps": 5, "learning_rate": 1e-3, "lr_schedule": {"name": "exponential", "decay_every": 4}},
        {
            "steps": 3,
            "learning_rate": 1e-3,
            "discriminator_learning_rate": 5e-3,
            "lr_schedule": {"name": "exponential", "decay_every": 2},
        },
    )
    step = 1e-3 * 0.1**0.5
    assert rates(one) == pytest.approx([1e-3, 1e-3, step, step, 1e-4])
    assert rates(two) == pytest.approx([1e-3, 1e-3, 1e-4])  # anew with the phase
    assert rates(two, "discriminator") == pytest.approx([5e-3, 5e-3, 5e-4])


@pytest.mark.parametrize(
    "step, expected", [(0, 1e-4), (999, 1e-4), (1000, 1e-4 * 0.1**0.02), (50_000, 1e-5), (100_000, 1e-6)]
)
def test_learning_rate_falls_tenfold_every_50_epochs_of_1000_in_stairs(step, expected):
    schedule = Exponential(name="exponential", decay_every=50_000)
    assert schedule.learning_rate(1e-4, step, 0.5) == pytest.approx(expected)
