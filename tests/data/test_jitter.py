import pytest
import torch
from pydantic import ValidationError

from srgan_dist.data.jitter import JitterConfig, jitter_crops
from srgan_dist.data.loader import TrainLoader

CPU = torch.device("cpu")
JITTER = JitterConfig(contrast=[0.5, 2.0], brightness=[-0.1, 0.1])


def test_contrast_is_about_the_middle_of_the_range_and_brightness_a_share_of_it():
    lr, hr = torch.tensor([-1.0, 0.0, 0.5]).view(1, 1, 1, 3), torch.zeros(1, 1, 4, 12)
    jitter_crops((lr, hr), 0, torch.tensor([5]), JitterConfig(contrast=[2.0, 2.0], brightness=[0.1, 0.1]))
    assert lr.flatten().tolist() == pytest.approx([-1.8, 0.2, 1.2])
    assert hr.unique().tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("shape", [(12, 10), (7, 6, 9)])
def test_what_a_crop_gets_depends_on_seed_and_slot_alone(shape):
    torch.manual_seed(0)
    images, slots = torch.randn(6, 1, *shape), torch.tensor([3, 1, 4, 15, 9, 2])

    def jittered(seed, places):
        found = images[places].clone()
        jitter_crops((found,), seed, slots[places], JITTER)
        return found

    whole, order = jittered(7, [0, 1, 2, 3, 4, 5]), [5, 0, 3, 1]
    assert torch.equal(jittered(7, order), whole[order]) and torch.equal(jittered(7, [2]), whole[2:3])
    assert not torch.equal(jittered(8, order), whole[order])


def test_draws_fill_their_ranges_evenly_and_independently():
    pixels = torch.stack([torch.zeros(4000), torch.ones(4000)], 1).view(4000, 1, 1, 2)
    jitter_crops((pixels,), 0, torch.arange(4000), JITTER)
    brightness, contrast = pixels[..., 0].flatten() / 2, (pixels[..., 1] - pixels[..., 0]).flatten()
    for values, (least, most) in ((brightness, JITTER.brightness), (contrast, JITTER.contrast)):
        share = (values - least) / (most - least)
        assert -1e-3 < share.min() < 0.01 and 0.99 < share.max() < 1.001 and abs(share.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([brightness, contrast]))[0, 1]) < 0.05


def test_batches_are_jittered_alike_on_any_ranks_and_from_any_update_on(train_split):
    def batches(rank=0, ranks=1, first=0, count=3, jitter=JITTER):
        sets = [(train_split, 1.0)]
        stream = TrainLoader(sets, 8, 6, 0, "all", rank, ranks, CPU, jitter=jitter).batches(first)
        taken = [tuple(x.clone() for x in next(stream)) for _ in range(count)]
        stream.close()
        return taken

    clean, whole = batches(jitter=None), batches()
    for pair, clean_pair in zip(whole, clean, strict=True):
        for crop in range(6):  # the line from clean grey levels to jittered ones is that of LR and HR
            lines = []
            for side, before in zip(pair, clean_pair, strict=True):
                x, y = before[crop].flatten(), side[crop].flatten()
                slope = (y.max() - y.min()) / (x.max() - x.min())
                assert torch.allclose(slope * (x - x.min()) + y.min(), y, atol=1e-5)
                lines.append((slope, y.min() - slope * x.min()))
            assert torch.allclose(*map(torch.tensor, lines), atol=1e-4) and lines[0][0] != 1
    shares = [batches(rank, 2) for rank in range(2)]
    for side in range(2):
        assert all(torch.equal(torch.cat([s[u][side] for s in shares]), whole[u][side]) for u in range(3))
        assert torch.equal(batches(first=2, count=1)[0][side], whole[2][side])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"contrast": [2.0, 1.0]}, "the lower bound 2 is above the upper one, 1"),
        ({"contrast": [0.0, 1.0]}, "greater than or equal to 0.1"),
        ({"brightness": [0.0, 1.5]}, "less than or equal to 1"),
    ],
)
def test_ranges_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        JitterConfig(**settings)
