import pytest
import torch

from srgan_dist.phases import spikes
from srgan_dist.phases.spikes import Spikes

SOUND, UNSOUND = torch.tensor(0.0), torch.tensor(1.0)


def learnt(values, factor=10):
    found = Spikes(factor)
    for value in values:
        found.learn(torch.tensor(float(value)), torch.tensor(2.0 * value), SOUND)
    return found


def test_the_means_are_plain_ones_first_and_follow_slowly_later(monkeypatch):
    monkeypatch.setattr(spikes, "SETTLED", 4)
    found = learnt([1, 2, 3, 6])
    assert (found.loss, found.norm, found.count) == (3, 6, 4)
    found.learn(torch.tensor(7.0), torch.tensor(14.0), SOUND)
    assert (found.loss, found.norm, found.count) == (4, 8, 5)  # a fourth of the way


@pytest.mark.parametrize("count, value, expected", [(99, 1e9, False), (100, 9.9, False), (100, 10.1, True), (150, 10.1, True)])
def test_a_spike_is_more_than_factor_times_the_mean_of_a_hundred_updates(count, value, expected):
    found = learnt([1] * count)
    assert bool(found.is_spike("loss", torch.tensor(value))) is expected
    assert bool(found.is_spike("norm", torch.tensor(2 * value))) is expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_an_unsound_update_teaches_nothing(value):
    found = learnt([1] * 100)
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    found.learn(torch.tensor(value), torch.tensor(value), UNSOUND)
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in before.items())


def test_another_start_has_the_same_means_from_its_checkpoint():
    found, again = learnt(range(1, 120)), Spikes(10)
    again.load_state_dict(found.state_dict())
    for other in (found, again):
        other.learn(torch.tensor(3.0), torch.tensor(5.0), SOUND)
    assert (found.loss, found.norm, found.count) == (again.loss, again.norm, again.count)
