import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from srgan_dist.data.degrade import DegradationConfig, degrade, degrade_crops, reach_of
from srgan_dist.data.loader import TrainLoader

CPU = torch.device("cpu")
ALL = DegradationConfig(blur_sigma=[0.0, 2.0], gain=[0.9, 1.1], noise=[0.0, 0.02])


def crops(count=6, shape=(12, 10), dtype=np.uint8, seed=0):
    peak = np.iinfo(dtype).max
    values = np.random.default_rng(seed).integers(peak // 4, peak * 3 // 4, (count, 1, *shape))
    return torch.from_numpy(values.astype(dtype))


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 10), (7, 6, 9)])
def test_a_blur_is_the_gaussian_of_scipy_with_mirrored_borders(shape, dtype):
    lr, sigmas = crops(3, shape, dtype), (0.0, 0.7, 2.0)
    found = degrade(lr, torch.arange(3), numbers(*sigmas), torch.ones(3), None, reach_of(2.0))
    assert found.dtype == lr.dtype and torch.equal(found[0], lr[0])
    for i in (1, 2):
        image = lr[i, 0].numpy().astype(np.float64)
        expected = gaussian_filter(image, sigmas[i], mode="reflect", radius=reach_of(2.0))
        assert np.abs(found[i, 0].numpy() - expected).max() <= 0.5 + np.iinfo(dtype).max * 1e-6


def test_a_gain_is_about_grey_level_0_and_clips():
    lr = torch.tensor([0, 100, 200], dtype=torch.uint8).view(1, 1, 1, 3)
    found = degrade(lr, torch.arange(1), torch.zeros(1), numbers(1.5), None, 0)
    assert found.flatten().tolist() == [0, 150, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_noise_has_the_share_of_the_range_that_was_asked_for(dtype):
    peak = np.iinfo(dtype).max
    lr = torch.from_numpy(np.full((2, 1, 200, 200), peak // 2, dtype))
    found = degrade(lr, torch.arange(2), torch.zeros(2), torch.ones(2), numbers(0.02, 0.1), 0)
    values = found.numpy().astype(np.float64)
    assert values.std(axis=(1, 2, 3)) / peak == pytest.approx([0.02, 0.1], rel=0.02)
    assert values.mean() / peak == pytest.approx(0.5, abs=0.003)


def test_draws_fill_their_ranges_evenly_and_independently():
    slots = torch.arange(4000)
    dark = torch.full((4000, 1, 1, 1), 10000, dtype=torch.int32).to(torch.int16).view(torch.uint16)
    gains = degrade_crops(dark, 0, slots, DegradationConfig(gain=[0.5, 2.0])).numpy().ravel() / 10000
    assert 0.5 <= gains.min() < 0.51 and 1.99 < gains.max() <= 2.0
    assert gains.mean() == pytest.approx(1.25, abs=0.03)
    assert abs(np.corrcoef(gains[:-1], gains[1:])[0, 1]) < 0.05
    alike = degrade_crops(dark, 0, slots, DegradationConfig(gain=[0.5, 2.0], noise=[0.0, 0.1]))
    assert abs(np.corrcoef(gains, alike.numpy().ravel() / 10000 - gains)[0, 1]) < 0.05


@pytest.mark.parametrize("shape", [(12, 10), (7, 6, 9)])
def test_what_a_crop_gets_depends_on_seed_and_slot_alone(shape):
    lr, slots = crops(6, shape), torch.tensor([3, 1, 4, 15, 9, 2])
    whole = degrade_crops(lr, 7, slots, ALL)
    assert not torch.equal(whole, lr) and not torch.equal(whole, degrade_crops(lr, 8, slots, ALL))
    for i in range(6):
        assert torch.equal(degrade_crops(lr[i : i + 1], 7, slots[i : i + 1], ALL), whole[i : i + 1])
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    assert torch.equal(degrade_crops(lr[order], 7, slots[order], ALL), whole[order])
    assert torch.equal(slots, torch.tensor([3, 1, 4, 15, 9, 2]))  # hashed in a copy


def test_batches_are_degraded_alike_on_any_ranks_and_from_any_update_on(train_split):
    def batches(rank=0, ranks=1, first=0, count=3, parts=1, degradation=ALL, noise=0):
        sets, options = [(train_split, 1.0)], (parts, noise, 0, degradation)
        source = TrainLoader(sets, 8, 6, 0, "all", rank, ranks, CPU, None, None, *options)
        stream = source.batches(first)
        taken = [tuple(x.clone() for x in next(stream)) for _ in range(count * parts)]
        stream.close()
        return taken

    clean, whole = batches(degradation=None), batches()
    for (lr, hr), (clean_lr, clean_hr) in zip(whole, clean, strict=True):
        assert torch.equal(hr, clean_hr) and not torch.equal(lr, clean_lr)
        assert lr.min() >= -1 and lr.max() <= 1
        levels = (lr + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-4  # grey levels, as a file has them
    shares = [batches(rank, 2) for rank in range(2)]
    assert all(torch.equal(torch.cat([s[u][0] for s in shares]), whole[u][0]) for u in range(3))
    assert torch.equal(torch.cat([lr for lr, _ in batches(first=2, count=1, parts=3)]), whole[2][0])
    assert torch.equal(batches(noise=2)[0][0], whole[0][0])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"blur_sigma": [2.0, 1.0]}, "the lower bound 2 is above the upper one, 1"),
        ({"noise": [0.0]}, "at least 2 items"),
        ({"noise": [-0.1, 0.0]}, "greater than or equal to 0"),
        ({"gain": [0.0, 1.0]}, "greater than or equal to 0.1"),
    ],
)
def test_ranges_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        DegradationConfig(**settings)
