import json
import math

import pytest
from conftest import tiny_config

from srgan_dist.run import gan_health as health
from srgan_dist.run.gan_health import HELD_UPDATES, QUIET_UPDATES, HealthMonitor, diagnose, shares
from srgan_dist.training import train

WELL = {
    "d/real": 0.8,
    "d/fake": 0.2,
    "health/share/pixel": 0.9,
    "health/share/adversarial": 0.1,
    "val/mean_shift": -0.5,
    "val/histogram_distance": 2.9,
    "val/histogram_distance_bicubic": 2.0,
    "val/rock/phase_dependence/coal": 0.04,
    "val/rock/lattice_excess/coal": 8.0,
    "test/rock/phase_dependence/coal": -0.01,
    "test/rock/lattice_excess/coal": -3.0,
}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def test_shares_of_weighted_terms_worked_by_hand():
    numbers = {"loss/pixel": 0.06, "loss/perceptual": 3000.0, "loss/adversarial": 2.0, "loss/generator": 0.1}
    weights = {"pixel": 1.0, "perceptual": 1e-5, "adversarial": 5e-3}
    assert shares(numbers, weights) == pytest.approx(
        {"health/share/pixel": 0.6, "health/share/perceptual": 0.3, "health/share/adversarial": 0.1}
    )
    assert shares({"loss/pixel": 0.0}, {"pixel": 1.0}) == {} == shares({}, {"pixel": 1.0})


def test_a_training_that_is_well_is_not_warned_of():
    kinds = {"discriminator won", "discriminator lost", "terms", "grey levels"} | {
        "pattern of coal, val",
        "pattern of coal, test",
    }
    assert set(diagnose(WELL)) == kinds
    assert not any(diagnose(WELL).values()) and diagnose({"loss/pixel": 0.1, "health/share/pixel": 1.0}) == {}


@pytest.mark.parametrize(
    "kind, change, words",
    [
        ("discriminator won", {"d/real": 0.97, "d/fake": 0.02}, "(d/real 0.97, d/fake 0.02): it has won"),
        ("discriminator lost", {"d/real": 0.51, "d/fake": 0.5}, "(d/real 0.51, d/fake 0.50): it has lost"),
        ("discriminator lost", {"d/real": 0.2, "d/fake": 0.9}, "it has lost"),
        (
            "terms",
            {"health/share/pixel": 0.02, "health/share/adversarial": 0.02, "health/share/perceptual": 0.96},
            "the term perceptual has made up 96.0% of the generator's objective and outweighs pixel"
            " and adversarial",
        ),
        (
            "grey levels",
            {"val/mean_shift": 1.5},
            "(val/mean_shift +1.50 %, val/histogram_distance 2.90 %, bicubic's 2.00 %, of the range)",
        ),
        ("grey levels", {"val/mean_shift": -1.5}, "val/mean_shift -1.50 %"),
        (
            "pattern of coal, val",
            {"val/rock/phase_dependence/coal": 0.27},
            "SR of coal has shown a pattern with the period of the upsampling, above what HR shows"
            " (val/rock/phase_dependence/coal +0.270, val/rock/lattice_excess/coal +8.0 dB)",
        ),
        (
            "pattern of coal, test",
            {"test/rock/lattice_excess/coal": 41.2},
            "test/rock/lattice_excess/coal +41.2 dB)",
        ),
        ("grey levels", {"val/histogram_distance": 3.1}, "val/histogram_distance 3.10 %"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_seen_and_what_to_try(kind, change, words):
    judged = diagnose(WELL | change)
    assert words in judged.pop(kind) and not any(judged.values())
    assert "Try " in diagnose(WELL | change)[kind] or "try " in diagnose(WELL | change)[kind]


@pytest.mark.parametrize(
    "change",
    [
        {"d/real": 0.97, "d/fake": 0.1},
        {"d/real": 0.9, "d/fake": 0.02},
        {"d/real": 0.5, "d/fake": 0.45},
        {"health/share/pixel": 0.94, "health/share/adversarial": 0.06},
        {"val/mean_shift": 0.9},
    ],
)
def test_what_is_near_a_threshold_is_not_wrong(change):
    assert not any(diagnose(WELL | change).values())


def test_a_warning_comes_when_trouble_stays_and_again_only_after_a_while():
    watch, won = HealthMonitor(), WELL | {"d/real": 0.99, "d/fake": 0.01}
    told = [updates for updates in range(0, 2 * QUIET_UPDATES, 100) if watch.check(won, updates)]
    assert told == [HELD_UPDATES, HELD_UPDATES + QUIET_UPDATES]


def test_the_end_of_a_phase_warns_of_what_no_warning_has_been_about():
    watch, bad = HealthMonitor(), WELL | {"val/rock/lattice_excess/coal": 30.0, "val/mean_shift": 2.0}
    assert not watch.check(bad, 100)
    shift, pattern = watch.check(bad, 200, at_end=True)
    assert shift.startswith("warning: at the end of the phase the grey levels of SR")
    assert pattern.startswith("warning: at the end of the phase SR of coal has shown a pattern")
    assert not watch.check(bad, 200, at_end=True) and not HealthMonitor().check(WELL, 200, at_end=True)


def test_trouble_that_passes_is_not_warned_of():
    watch, won = HealthMonitor(), WELL | {"d/real": 0.99, "d/fake": 0.01}
    for updates in range(0, 20 * HELD_UPDATES, 100):
        assert not watch.check(WELL if updates % HELD_UPDATES == 0 else won, updates)


def test_validations_between_the_records_of_training_do_not_interrupt_it():
    watch, lines = HealthMonitor(), []
    for updates in range(0, HELD_UPDATES + 1, 100):
        lines += watch.check({"d/real": 0.99, "d/fake": 0.01}, updates)
        lines += watch.check(
            {"val/mean_shift": 9.0, "val/histogram_distance": 9.0, "val/histogram_distance_bicubic": 1.0},
            updates,
        )
    assert [line.startswith(f"warning: for {HELD_UPDATES} updates the ") for line in lines] == [True, True]


def test_a_training_records_its_health_and_warns(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(health, "HELD_UPDATES", 2)
    monkeypatch.setattr(health, "DOMINANT_SHARE", 0.0)
    monkeypatch.setattr(health, "MEAN_SHIFT", -1.0)
    train(tiny_config(shards, tmp_path, log_every=1, validate_every=2))
    records = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    phase_1 = [record for record in records if "loss/pixel" in record and "d/real" not in record]
    phase_2 = [record for record in records if "d/real" in record]
    assert len(phase_1) == 6 and len(phase_2) == 4
    for record in phase_1:
        assert record["health/share/pixel"] == 1.0 and record["health/grad_norm/generator"] > 0
    for record in phase_2:
        adversarial = 5e-3 * record["loss/adversarial"]
        assert record["health/share/adversarial"] == pytest.approx(
            adversarial / (adversarial + record["loss/pixel"]), rel=1e-4
        )
        assert record["health/grad_norm/generator"] > 0 and record["health/grad_norm/discriminator"] > 0
    validations = [record for record in records if "val/psnr" in record]
    for record in validations:
        assert all(
            math.isfinite(record[f"val/{name}"])
            for name in ("mean_shift", "histogram_distance", "histogram_distance_bicubic")
        )
        assert record["val/histogram_distance"] >= abs(record["val/mean_shift"]) - 1e-3
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len([line for line in said if "the term pixel has made up" in line]) == 1  # phase 1 has one term
    assert len([line for line in said if "the grey levels of SR" in line]) == 2  # once in each phase
