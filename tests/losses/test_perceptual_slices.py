"""The perceptual loss of volumes: slices along three axes, drawn from seed and update."""

import pytest
import torch
from accelerators import accelerator_on
from conftest import tiny_config

from srgan_dist.losses.perceptual import VGGLoss, VGGLossConfig, slices_of
from srgan_dist.phases import build_phase
from srgan_dist.run.training_run import build_networks


def loss_of(slices):
    return VGGLoss(
        VGGLossConfig(name="vgg19", weights="random", layer="relu2_2", slices_per_axis=slices), scale=4
    )


def numbers(loss, size=16):
    """Return the slices that are compared along each axis of a volume in which every voxel has its place."""
    places = torch.arange(size).float()
    axes = torch.meshgrid(places, places, places, indexing="ij")
    return [
        slices_of(axes[i][None, None], loss.positions)[i].flatten(1).unique(dim=1).flatten().tolist()
        for i in range(3)
    ]


def test_slices_are_a_function_of_seed_and_update_one_of_each_part():
    loss, again = loss_of(4), loss_of(4)
    seen = []
    for seed, update in ((0, 0), (0, 1), (1, 0)):
        loss.begin(seed, update)
        again.begin(seed, update)
        assert numbers(loss) == numbers(again)
        seen.append(numbers(loss))
        for axis in seen[-1]:
            assert [number // 4 for number in axis] == [0, 1, 2, 3]
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_all_slices_come_up():
    loss, found = loss_of(4), set()
    for update in range(100):
        loss.begin(3, update)
        found |= set(numbers(loss)[1])
    assert found == set(range(16))


def test_as_many_as_there_are_or_null_is_all_of_them():
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 2, 1, 6, 6, 6)
    all_of_them = loss_of(None)(sr, hr)
    assert torch.equal(loss_of(6)(sr, hr), all_of_them) and torch.equal(loss_of(50)(sr, hr), all_of_them)


def test_the_mean_over_updates_is_that_of_all_slices():
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 1, 1, 8, 8, 8)
    loss, values = loss_of(2), []
    for update in range(200):
        loss.begin(0, update)
        values.append(loss(sr, hr))
    values = torch.stack(values)
    error = values.std() / len(values) ** 0.5
    assert values.std() > 0 and abs(values.mean() - loss_of(None)(sr, hr)) < 4 * error


def test_images_are_compared_whole():
    sr, hr = torch.rand(2, 2, 1, 8, 8)
    assert torch.equal(loss_of(1)(sr, hr), loss_of(None)(sr, hr))


@pytest.mark.parametrize("name", ["pretrain", "adversarial"])
def test_every_update_of_a_phase_draws_and_a_resumed_one_repeats(name):
    vgg = {"name": "vgg19", "weights": "random", "layer": "relu2_2", "slices_per_axis": 2}
    config = tiny_config(
        "unused",
        "unused",
        seed=5,
        generator={"ndim": 3, "scale": 2, "num_blocks": 1, "num_filters": 4},
        **{name: {"losses": {"perceptual": vgg}}},
    )
    accelerator = accelerator_on("cpu")
    crops = [torch.rand(2, 1, *[side] * 3) for side in (8, 16)]

    def positions(step, updates):
        phase = build_phase(getattr(config, name), build_networks(config, accelerator), accelerator)
        phase.step, found = step, []
        for _ in range(updates):
            phase.update([crops])
            found.append(phase.losses["perceptual"].positions.clone())
        return found

    first, second = positions(0, 2)
    (resumed,) = positions(1, 1)
    assert torch.equal(second, resumed) and not torch.equal(first, second)
