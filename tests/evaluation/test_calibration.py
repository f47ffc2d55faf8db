"""The calibration of several draws, against errors whose size is known."""

import numpy as np
import pytest
import torch

from srgan_dist.data.split import open_split
from srgan_dist.evaluation import calibration as module
from srgan_dist.evaluation.calibration import calibration
from srgan_dist.evaluation.super_resolve import mean_and_spread

CPU = torch.device("cpu")
SAMPLES = 8


class Draws:
    """Stands for super resolution: the truth of an image, plus errors of a known size."""

    def __init__(self, split, error, spread):
        self.reader, self.error, self.spread = module.Reader(split), error, spread
        self.truths = {self.reader.image(i)[0].tobytes(): self.reader.image(i)[1] for i in range(len(split))}

    def __call__(self, generator, lr, samples):
        return mean_and_spread(self.draw(lr, seed) for seed in range(samples))

    def draw(self, lr, seed):
        truth = torch.from_numpy(self.truths[lr.tobytes()] / 255).float()
        strength = torch.linspace(0.2, 1, truth.shape[1])  # uncertain on the right
        draw = torch.Generator().manual_seed(seed)
        common = torch.Generator().manual_seed(99)
        error = self.error * torch.randn(truth.shape, generator=common)
        return truth + strength * (error + self.spread * torch.randn(truth.shape, generator=draw))


@pytest.mark.parametrize("spread, ratio", [(0.05, 1), (0.0125, 1 / 4)])
def test_the_ratio_says_whether_draws_are_as_wide_as_the_error(shards, monkeypatch, spread, ratio):
    split = open_split(shards, "valid")
    monkeypatch.setattr(module, "super_resolve_samples", Draws(split, 0.05, spread))
    found = calibration(split, None, SAMPLES, 0, 1, CPU)
    assert set(found) == {"coal", "sandstone"}
    for facts in found.values():
        # The mean of N draws has the common error and 1 / N of the draws' variance
        rms = np.sqrt(np.mean(np.linspace(0.2, 1, 1000) ** 2))
        assert facts["spread"] == pytest.approx(100 * spread * rms, rel=0.05)
        assert facts["error"] == pytest.approx(100 * rms * np.sqrt(0.05**2 + spread**2 / SAMPLES), rel=0.05)
        assert facts["ratio"] == pytest.approx(ratio, rel=0.08)
        assert facts["correlation"] > 0.8
        spreads, errors = np.transpose(facts["bins"])
        assert (np.diff(spreads) > 0).all() and errors[-1] > 3 * errors[0]


def test_a_generator_whose_draws_do_not_differ_has_no_calibration(shards, monkeypatch):
    split = open_split(shards, "valid")
    monkeypatch.setattr(module, "super_resolve_samples", Draws(split, 0.05, 0.0))
    assert calibration(split, None, 2, 0, 1, CPU) == {}


def test_two_ranks_share_the_images(shards, monkeypatch):
    split = open_split(shards, "train")
    monkeypatch.setattr(module, "super_resolve_samples", Draws(split, 0.05, 0.05))
    shares = []
    monkeypatch.setattr(module, "gather_lists", lambda rows: shares.append(rows) or rows)
    for rank in range(2):
        calibration(split, None, 2, rank, 2, CPU)
    assert sum(map(len, shares)) == len(split)
