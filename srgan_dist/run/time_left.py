"""The time that a training still takes: updates, checkpoints and validations of all phases that remain."""

import math
import time

from tqdm import tqdm

from srgan_dist.run.update_cost import update_cost

SETTLING_SECONDS = 5.0  # of updates, before which their speed says little


class TimeLeft:
    """Estimates the time left from the updates of a phase, without the first one of this process.

    name: of the phase. validator: knows how long a validation takes. precision: "no" or "bf16".
    """

    def __init__(self, config, name, validator, precision):
        self.config, self.validator, self.precision = config, validator, precision
        names, phases = zip(*config.phases(), strict=True)
        self.phase, self.later = phases[names.index(name)], phases[names.index(name) + 1 :]
        self.begin = self.ratios = None

    def estimate(self, step, seconds, meter):
        """Return the time left as text, and the updates of the whole phase; "" and None while too little is
        known.

        step: of the phase, whose updates have taken `seconds` so far and are complete on the device. The text
        begins with "over" where something is not known yet, e.g. how long a validation takes, and with
        "about" where the updates of a later phase are judged by their arithmetic.
        """
        now = time.monotonic() - meter.pauses["validation"]
        self.begin = self.begin or (step, now)
        first, began = self.begin
        if step == first or now - began < SETTLING_SECONDS:
            return "", None
        each = (now - began) / (step - first)
        updates, parts = self._phase_left(self.phase, each, step, seconds)
        for phase, ratio in zip(self.later, self._ratios(meter), strict=True):
            parts += self._phase_left(phase, ratio and ratio * each)[1]
        left = sum(part for part in parts if part is not None)
        if left < 1 and None in parts:
            return "", step + updates
        word = "over " if None in parts else "about " if any(self.ratios) else ""
        return f"{word}{tqdm.format_interval(left)} left", step + updates

    def _phase_left(self, phase, each, step=0, seconds=0.0):
        """Return the updates that are left of a phase, and the seconds that they and validations take.

        each: seconds of an update. What is not known is None. step, seconds: updates so far, and their time.
        """
        at_end = self.validator.seconds_of("valid", "test")
        if phase.weights is not None:
            return 0, [at_end]
        in_time = math.inf if phase.max_seconds is None else max(0.0, phase.max_seconds - seconds)
        if each is None:
            return None, [None if in_time == math.inf else in_time, at_end, None]
        updates = phase.steps - step
        if in_time < updates * each:
            updates = math.ceil(in_time / each)
        every = self.config.validate_every
        validations = (step + updates - 1) // every - max(0, step - 1) // every  # with one that is due now
        one = self.validator.seconds_of("valid") if validations > 0 else 0.0
        return updates, [min(updates * each, in_time), at_end, one and one * validations]

    def _ratios(self, meter):
        """Return for each later phase the arithmetic of an update over that of a present one, or None."""
        if self.ratios is None:
            with meter.paused():
                costs = [self._flop(phase) for phase in (self.phase, *self.later) if self.later]
                self.ratios = [flop / costs[0] if flop and costs[0] else None for flop in costs[1:]]
        return self.ratios

    def _flop(self, phase):
        try:
            return update_cost(self.config, phase, self.precision, 2).flop
        except (RuntimeError, ValueError):  # e.g. of a loss of one's own that asks for a value
            return None
