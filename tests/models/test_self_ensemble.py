"""The mean of a generator over orientations: against turned images, and through the command."""

import numpy as np
import pytest
import torch

import srgan_dist
from srgan_dist.data.noise import Noise
from srgan_dist.evaluation.super_resolve import super_resolve
from srgan_dist.models import build_generator
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import save_generator


def generator_of(ndim, **settings):
    torch.manual_seed(0)
    config = SRResNetConfig(ndim=ndim, scale=2, num_blocks=1, num_filters=4, init_std=None, **settings)
    generator = build_generator(config).eval()
    if config.noise:
        generator.texture.start()
    return generator


@pytest.mark.parametrize("turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)])
def test_it_gives_a_turned_image_its_turned_result(turn):
    generator = generator_of(2)
    lr = torch.randn(2, 1, 9, 9)
    with torch.no_grad():
        ensemble = SelfEnsemble(generator)
        torch.testing.assert_close(ensemble(turn(lr)), turn(ensemble(lr)))
        assert not torch.allclose(generator(turn(lr)), turn(generator(lr)), atol=1e-3)


def test_it_is_the_mean_over_all_8_orientations_by_numpy():
    generator = generator_of(2)
    lr = torch.randn(1, 1, 6, 8)
    expected = []
    with torch.no_grad():
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(lr[0, 0].numpy(), turns)
                turned = (np.fliplr(turned) if mirrored else turned).copy()
                sr = generator(torch.from_numpy(turned)[None, None])[0, 0].numpy()
                expected.append(np.rot90(np.fliplr(sr) if mirrored else sr, -turns))
        np.testing.assert_allclose(SelfEnsemble(generator)(lr)[0, 0], np.mean(expected, 0), atol=1e-6)


def test_of_volumes_it_is_the_mean_over_the_8_mirrored_ones():
    generator = generator_of(3)
    lr = torch.randn(1, 1, 5, 6, 7)
    axes = [tuple(a for a, on in zip((2, 3, 4), f"{n:03b}", strict=True) if on == "1") for n in range(8)]
    with torch.no_grad():
        expected = sum(generator(lr.flip(flips)).flip(flips) for flips in axes) / 8
        torch.testing.assert_close(SelfEnsemble(generator)(lr), expected)


def test_grain_is_as_strong_as_without_it():
    """Were the noise not turned with LR, eight independent draws would leave a third of it."""
    lr = np.full((24, 24), 128, np.uint8)
    generator = generator_of(2, noise=1)
    with torch.no_grad():
        for part in (generator.tail, generator.texture.detail, generator.texture.grain):
            part.weight.zero_()
        generator.texture.grain.weight[:, :, 2, 2] = 1  # white: the same in every orientation
    spread = [
        torch.stack([super_resolve(network, lr, noise=Noise(seed)) for seed in range(8)]).std(0).mean().item()
        for network in (generator, SelfEnsemble(generator))
    ]
    assert spread[0] > 0.001
    assert spread[1] == pytest.approx(spread[0], rel=1e-4)


def test_the_function_and_tiles_of_it_agree(tmp_path):
    generator = generator_of(2)
    weights = tmp_path / "weights.safetensors"
    save_generator(weights, generator, {})
    lr = np.random.default_rng(0).integers(0, 256, (30, 26), np.uint8)
    np.save(tmp_path / "in.npy", lr)
    out = tmp_path / "out.npy"
    srgan_dist.super_resolve(weights, tmp_path / "in.npy", out, tile=11, device="cpu", self_ensemble=True)
    whole = srgan_dist.load_generator(weights, "cpu", self_ensemble=True)(lr)
    np.testing.assert_allclose(np.load(out).astype(int), whole, atol=1)
    assert (np.load(out) != srgan_dist.load_generator(weights, "cpu")(lr)).any()
