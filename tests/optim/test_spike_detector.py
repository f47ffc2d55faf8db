import pytest
import torch

from srgan_dist.optim import spike_detector as spikes
from srgan_dist.optim.spike_detector import SpikeDetector


def judged(found, loss, norm):
    return bool(found.update(torch.tensor(float(loss)), torch.tensor(float(norm))))


def learnt(values, factor=10):
    found = SpikeDetector(factor)
    assert not any(judged(found, value, 2 * value) for value in values)
    return found


def test_the_means_are_plain_ones_first_and_follow_slowly_later(monkeypatch):
    monkeypatch.setattr(spikes, "SETTLED", 4)
    found = learnt([1, 2, 3, 6])
    assert found.means.tolist() == [3, 6] and found.counts.tolist() == [4, 4]
    judged(found, 7, 14)
    assert found.means.tolist() == [4, 8] and found.counts.tolist() == [5, 5]  # a fourth of the way


@pytest.mark.parametrize(
    "count, value, expected", [(99, 1e9, False), (100, 9.9, False), (100, 10.1, True), (150, 10.1, True)]
)
def test_a_spike_is_more_than_factor_times_the_mean_of_a_hundred_updates(count, value, expected):
    assert judged(learnt([1] * count), value, 2) is expected
    assert judged(learnt([1] * count), 1, 2 * value) is expected


@pytest.mark.parametrize("value, updates", [(14, 1), (16, 2), (1000, 12)])
def test_what_stays_risen_becomes_the_usual(value, updates):
    found = learnt([1] * 100)
    assert [judged(found, value, 2) for _ in range(updates)] == [True] * updates
    assert found.means.tolist() == [1.5**updates, 2]
    assert not judged(found, value, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_teaches_nothing(value):
    found = learnt([1] * 100)
    judged(found, value, value)
    assert found.means.tolist() == [1, 2] and found.counts.tolist() == [100, 100]


def test_above_nothing_nothing_is_far():
    assert not judged(learnt([0] * 100), 1, 1)


def test_another_start_has_the_same_means_from_its_checkpoint():
    found, again = learnt(range(1, 120)), SpikeDetector(10)
    again.load_state_dict(found.state_dict())
    for other in (found, again):
        judged(other, 3, 5)
    assert torch.equal(found.means, again.means) and torch.equal(found.counts, again.counts)
