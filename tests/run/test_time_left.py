"""The time left, where every update takes two seconds and a validation of the valid split three."""

import contextlib
from types import SimpleNamespace

import pytest
from conftest import tiny_config
from run_files import with_steps

from srgan_dist.run import time_left
from srgan_dist.run.time_left import TimeLeft
from srgan_dist.run.update_cost import update_cost

SECONDS = {"valid": 3.0, "test": 1.0}


class Run:
    """A training whose clock goes on by its updates and validations alone."""

    def __init__(self, monkeypatch, config, phase="pretrain", begin=0, validated=True):
        self.now, self.step, self.seconds, self.begin = 0.0, begin, 0.0, begin
        self.pauses, self.paused = {"validation": 0.0}, contextlib.nullcontext  # what a Meter has
        monkeypatch.setattr(time_left, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.validated, self.left = validated, TimeLeft(config, phase, self, "no")

    def seconds_of(self, *names):
        return sum(SECONDS[name] for name in names) if self.validated else None

    def train(self, updates):
        """Take updates, the first in a minute, which belongs to no other; returns the estimate."""
        last = self.step + updates
        while self.step < last:
            seconds = 60 if self.step == self.begin else 2
            self.now, self.seconds, self.step = self.now + seconds, self.seconds + seconds, self.step + 1
            if self.step in (self.begin + 1, last):
                found = self.left.estimate(self.step, self.seconds, self)
        return found


def config_of(steps=100, adversarial=None, validate_every=1000, **changes):
    config = tiny_config("unused", "unused", validate_every=validate_every)
    config = with_steps(config, pretrain={"steps": steps, **changes})
    if adversarial is None:
        return config.model_copy(update={"adversarial": None})
    return with_steps(config, adversarial=adversarial)


def test_nothing_is_said_before_the_speed_is_known(monkeypatch):
    run = Run(monkeypatch, config_of())
    assert run.train(1) == ("", None)
    assert run.train(2) == ("", None)  # four seconds
    assert run.train(1) == ("03:16 left", 100)  # 96 updates and the validations of the end


def test_validations_on_the_way_are_counted_and_their_time_is_no_updates(monkeypatch):
    run = Run(monkeypatch, config_of(validate_every=20))
    run.train(5)
    run.now, run.pauses["validation"] = run.now + 500, 500.0
    assert run.train(14)[0] == "02:58 left"  # 81 updates, after 20, 40, 60 and 80, and the end
    assert run.train(1)[0] == "02:56 left"  # 80 updates; the validation of this update comes now
    assert run.train(1)[0] == "02:51 left"


def test_a_phase_with_a_time_limit_ends_by_it(monkeypatch):
    run = Run(monkeypatch, config_of(steps=10**9, max_seconds=360.0))
    assert run.train(101) == ("01:44 left", 151)  # 260 s are over
    run = Run(monkeypatch, config_of(steps=110, max_seconds=360.0))
    assert run.train(101) == ("00:22 left", 110)  # its steps end before


def test_a_resumed_phase_is_judged_by_its_own_updates(monkeypatch):
    run = Run(monkeypatch, config_of(), begin=50)
    assert run.train(10) == ("01:24 left", 100)


def test_what_is_not_known_is_said(monkeypatch):
    run = Run(monkeypatch, config_of(), validated=False)
    assert run.train(10)[0] == "over 03:00 left"
    assert run.train(90) == ("", 100)  # nothing but the validations


def test_later_phases_are_judged_by_their_arithmetic_or_their_time_limit(monkeypatch):
    config = config_of(adversarial={"steps": 10})
    pretrain, adversarial = (
        update_cost(config, phase, "no", 2).flop for phase in (config.pretrain, config.adversarial)
    )
    minutes, seconds = divmod(int(180 + 20 * adversarial / pretrain + 8), 60)
    assert Run(monkeypatch, config).train(10) == (f"about {minutes:02d}:{seconds:02d} left", 100)
    run = Run(monkeypatch, config_of(adversarial={"steps": 10**6, "max_seconds": 600.0}))
    assert run.train(10)[0] == "about 13:08 left"
    run = Run(monkeypatch, config_of(adversarial={"steps": 10**6, "max_seconds": 600.0}), "adversarial")
    assert run.train(10)[0] == "08:46 left"  # 78 of 600 s are over


def test_a_loss_whose_cost_is_unknown_leaves_the_later_phase_out(monkeypatch):
    def refuse(*_):
        raise RuntimeError("asks for a value")

    monkeypatch.setattr(time_left, "update_cost", refuse)
    run = Run(monkeypatch, config_of(adversarial={"steps": 10}))
    assert run.train(10)[0] == "over 03:08 left"


@pytest.mark.parametrize("step", [99, 100])
def test_the_last_updates(monkeypatch, step):
    assert Run(monkeypatch, config_of(validate_every=10)).train(step)[0] == f"00:{204 - 2 * step:02d} left"
