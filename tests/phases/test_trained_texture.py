"""Phase 2 with a source of texture: what it trains, and where it begins."""

import pytest
import torch
from conftest import tiny_config
from safetensors.torch import load_file

from srgan_dist.config import ConfigError
from srgan_dist.models.layers import CONV, NoiseHead
from srgan_dist.training import train

GENERATOR = {"name": "srresnet", "num_blocks": 1, "num_filters": 8, "tanh": False, "noise": 2}


def config_of(shards, output, trains, **changes):
    adversarial = {"steps": 3, "trains": trains, "losses": {"pixel": {"name": "l1"}}}
    return tiny_config(shards, output, generator=GENERATOR, adversarial=adversarial, **changes)


@pytest.mark.parametrize("trains, precision", [("texture", "no"), ("texture", "bf16"), ("all", "no")])
def test_phase_2_trains_the_texture_alone_or_all(shards, tmp_path, monkeypatch, trains, precision):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    trained = train(config_of(shards, tmp_path, trains, mixed_precision=precision))
    before, after = (
        load_file(tmp_path / "tiny" / "weights" / f"{phase}.safetensors")
        for phase in ("pretrain", "adversarial")
    )
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({"texture"} if trains == "texture" else {name.split(".")[0] for name in before})
    assert not before["texture.amplitude.bias"].any() and not before["texture.detail.weight"].any()
    assert all(parameter.isfinite().all() for parameter in trained.generator.parameters())


def test_texture_without_noise_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match="adversarial.trains=texture: generator.noise=0 makes no texture"):
        tiny_config(shards, tmp_path, adversarial={"trains": "texture", "losses": {"pixel": {"name": "l1"}}})


@pytest.mark.parametrize("ndim", [2, 3])
def test_grain_has_no_mean_and_the_strength_of_its_amplitude(ndim):
    torch.manual_seed(0)
    head = NoiseHead(CONV[ndim], 4, 6, 2, 6)
    head.initialize()
    lr_features, features, noise = (
        torch.randn(2, n, *[side] * ndim) for n, side in ((4, 6), (6, 12), (2, 12))
    )
    assert not head(features, lr_features, noise).any()
    head.start()
    grain = head(features, lr_features, noise)
    assert grain.std() > 0.01
    white = head.grain.weight.flatten(1).amax(1) > 0.9  # filters that are hardly more than one pixel
    assert white.any() and torch.equal(head.amplitude.bias != 0, ~white)
    assert torch.allclose(head(features, lr_features, -noise), -grain, atol=1e-6)
    assert not head(features, lr_features, torch.zeros_like(noise)).any()
    before = head.amplitude.bias.clone()
    with torch.no_grad():
        head.amplitude.bias.mul_(2)
    head.start()  # leaves what was learnt
    assert torch.equal(head.amplitude.bias, 2 * before)


@pytest.mark.parametrize("ndim, noise", [(2, 1), (2, 2), (2, 4), (3, 2), (2, 8)])
def test_grain_begins_without_a_direction_and_in_several_colours(ndim, noise):
    head = NoiseHead(CONV[ndim], 4, 6, noise, 6)
    head.initialize()
    filters = head.grain.weight.detach()
    for axes in ([ndim + 1, *range(2, ndim + 1)], [3, 2, *range(4, ndim + 2)]):  # turned, and mirrored
        assert torch.allclose(filters, filters.permute(0, 1, *axes)) and torch.equal(filters, filters.flip(2))
    assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(len(filters)))
    assert (filters.flatten(2).norm(dim=2) > 0).sum(1).tolist() == [1] * len(filters)  # of one channel each
    of_channel = filters.flatten(2).amax(2)  # the narrower, the higher
    for channel in of_channel.T:
        heights = channel[channel > 0]
        assert len(heights) == len(filters) // noise and (heights.diff() < 0).all()
