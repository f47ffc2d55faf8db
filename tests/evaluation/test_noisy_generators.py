"""Super resolution with noise: the same at any tiling, another draw per seed, mean and spread of several."""

import sys

import numpy as np
import pytest
import tifffile
import torch
from commands import run
from conftest import texture
from PIL import Image

import srgan_dist
from srgan_dist.data.noise import Noise
from srgan_dist.data.value_range import to_metric_range, to_network_range
from srgan_dist.evaluation.super_resolve import super_resolve, super_resolve_pages, super_resolve_samples
from srgan_dist.evaluation.super_resolve_files import list_jobs
from srgan_dist.evaluation.super_resolver import SuperResolver
from srgan_dist.models import build_generator, makes_grain
from srgan_dist.models.rrdb import RRDBConfig
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.models.srresnet import SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError

SRRESNET = {"num_blocks": 1, "num_filters": 8, "tanh": False, "init_std": None, "noise": 2}


def network(settings=None):
    torch.manual_seed(1)
    generator = build_generator(settings or SRResNetConfig(scale=2, **SRRESNET)).eval()
    if generator.texture:
        for layer in (generator.texture.detail, generator.texture.amplitude):
            torch.nn.init.normal_(layer.weight, std=0.2)
    return generator


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights" / "g.safetensors"
    save_generator(path, network(), {})
    return path


@pytest.mark.parametrize(
    "settings",
    [
        SRResNetConfig(scale=4, **SRRESNET),
        SRResNetConfig(scale=6, upsampling="nearest_before", upscale_filters=5, input_skip=True, **SRRESNET),
        SRResNetConfig(scale=3, ndim=3, upsampling="nearest_before", input_skip=True, **SRRESNET),
        SRResNetConfig(scale=4, upsampling="nearest_after", tail_kernel=3, **SRRESNET),
        SRResNetConfig(scale=4, ndim=3, upsampling="nearest_after", tail_kernel=3, **SRRESNET),
        SRResNetConfig(scale=3, upsampling="trilinear", tail_kernel=3, **SRRESNET | {"noise": 0}),
        SRResNetConfig(scale=4, ndim=3, upsampling="trilinear", **SRRESNET | {"noise": 0}),
        RRDBConfig(name="rrdb", scale=2, num_blocks=1, num_filters=4, growth=4, noise=3),
    ],
    ids=["shuffle", "before", "3-D", "after", "after 3-D", "linear", "linear 3-D", "rrdb"],
)
def test_tiles_give_the_untiled_result(settings):
    generator = network(settings)
    lr = texture(0, 41, 37) if settings.ndim == 2 else np.stack([texture(z, 13, 12) for z in range(11)])
    whole = super_resolve(generator, lr, tile=1000)
    if settings.noise:
        assert (whole - super_resolve(generator, lr, noise=Noise(1))).abs().max() > 0.05
    assert torch.allclose(whole, super_resolve(generator, lr, tile=5), atol=5e-6)


def test_no_noise_is_the_network_given_zeros():
    generator, lr = network(), texture(0, 20, 24)
    with torch.no_grad():
        given = torch.from_numpy(lr.astype(np.float32))[None, None] / 255 * 2 - 1
        signed = generator(given, torch.zeros(1, 2, 40, 48))[0, 0]
    found = super_resolve(generator, lr, noise=Noise(strength=0))
    assert torch.allclose(found, ((signed + 1) / 2).clamp(0, 1), atol=1e-6)


def test_an_untrained_texture_adds_nothing():
    config = SRResNetConfig(scale=2, **SRRESNET)
    torch.manual_seed(1)
    generator, lr = build_generator(config).eval(), torch.randn(1, 1, 9, 9)
    assert torch.equal(generator(lr), generator(lr, torch.randn(1, 2, 18, 18)))


def test_pages_of_a_stack_have_noise_of_their_own():
    lr = texture(0, 20, 24)
    one, two = super_resolve_pages(network(), [(0, lr), (1, lr)])
    assert not np.array_equal(one, two)
    assert np.array_equal(two, *super_resolve_pages(network(), [(1, lr)]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_samples_are_the_mean_and_spread_of_draws(dtype):
    sr, lr = SuperResolver(network()), texture(0, 20, 24, dtype)
    mean, spread = sr(lr, noise_seed=5, samples=4, tile=8)
    draws = np.stack([super_resolve(sr.generator, lr, noise=Noise(seed)).numpy() for seed in (5, 6, 7, 8)])
    peak = np.iinfo(dtype).max
    assert mean.dtype == dtype and np.abs(mean - peak * draws.mean(0)).max() <= 0.51
    assert spread.dtype == np.float32 and spread.mean() > 0.01 * peak
    assert np.allclose(spread, peak * draws.std(0, ddof=1), rtol=1e-3, atol=1e-3 * peak)


def test_the_command_writes_mean_and_spread_which_repeat(weights, tmp_path):
    stack = np.stack([texture(seed, 20, 24) for seed in range(3)])
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack")
    options = ["--noise-seed", "3", "--samples", "4"]
    outputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for output, more in zip(outputs, [[], ["--tile", "7"]], strict=True):
        done = run(
            sys.executable,
            "launch/super_resolve.py",
            weights,
            tmp_path / "in.tif",
            output,
            *options,
            *more,
        )
        assert done.returncode == 0, done.stderr
        assert "_spread.tif: their standard deviation over 4 samples" in done.stdout
    means = [tifffile.imread(output) for output in outputs]
    spreads = [tifffile.imread(output.with_name(f"{output.stem}_spread.tif")) for output in outputs]
    assert means[0].shape == spreads[0].shape == (3, 40, 48) and spreads[0].dtype == np.float32
    assert np.abs(means[0].astype(int) - means[1]).max() <= 1
    assert np.allclose(*spreads, atol=1e-2)
    expected = srgan_dist.load_generator(weights, "cpu")(stack, noise_seed=3, samples=4)
    assert np.array_equal(means[0], expected[0]) and np.array_equal(spreads[0], expected[1])
    again = run(
        sys.executable, "launch/super_resolve.py", weights, tmp_path / "in.tif", tmp_path / "a.tif", *options
    )
    assert again.returncode == 1 and "a_spread.tif exist;" in again.stderr


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"noise": -1}, "noise -1 must be a number from 0"),
        ({"noise": float("nan")}, "noise nan must be"),
        ({"noise_seed": -1}, "noise seed -1 must be a whole number from 0"),
        ({"noise_seed": 2**63}, "must be a whole number from 0 to 2\\^63"),
        ({"samples": 1}, "samples=1 must be a whole number from 2 to 1000"),
        ({"samples": 2, "noise": 0}, "samples=2 of noise 0 are all the same"),
        ({"samples": 3, "noise_seed": 2**63 - 1}, "is too large for samples=3"),
    ],
)
def test_wrong_noise_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        SuperResolver(network())(texture(0, 20, 24), **settings)


def test_the_largest_seed_is_taken():
    assert SuperResolver(network())(texture(0, 20, 24), noise_seed=2**63 - 1).shape == (40, 48)


def test_outputs_of_a_folder_that_would_have_one_name_are_named_before_any_is_computed(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.tif"):
        Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in" / name)
    with pytest.raises(UserError, match="a_spread.tif would be written 2 times; rename one of the inputs"):
        list_jobs(tmp_path / "in", tmp_path / "out", samples=4)
    assert len(list_jobs(tmp_path / "in", tmp_path / "out")[0]) == 2


@pytest.mark.parametrize("settings", [{"noise": 0.5}, {"noise_seed": 1}, {"samples": 4}])
def test_a_generator_without_noise_refuses_settings_of_it(settings):
    generator = network(SRResNetConfig(scale=2, **SRRESNET | {"noise": 0}))
    with pytest.raises(UserError, match="a generator without noise \\(generator.noise=0\\)"):
        SuperResolver(generator)(texture(0, 20, 24), **settings)


def test_a_texture_that_is_not_trained_is_not_computed_and_changes_nothing():
    torch.manual_seed(0)
    generator = build_generator(SRResNetConfig(scale=2, **SRRESNET)).eval()
    assert not makes_grain(generator) and makes_grain(network())
    lr = texture(0, 12, 14)
    with torch.no_grad():
        whole = generator(to_network_range(torch.from_numpy(lr))[None, None], torch.randn(1, 2, 24, 28))
    generator.texture.register_forward_hook(lambda *_: pytest.fail("the texture is computed"))
    for seed in (0, 1):
        assert torch.equal(super_resolve(generator, lr, noise=Noise(seed)), to_metric_range(whole[0, 0]))
    calls = []
    generator.tail.register_forward_hook(lambda *_: calls.append(1))
    mean, spread = super_resolve_samples(generator, lr, 30)
    assert torch.equal(mean, to_metric_range(whole[0, 0])) and not spread.any() and len(calls) == 1
    with pytest.raises(UserError, match="samples=4 of these weights are all the same"):
        SuperResolver(generator)(lr, samples=4)


class Foreign(torch.nn.Module):
    """A network of somebody else: with noise, without a part that is called texture."""

    tile_overlap = 1

    def __init__(self):
        super().__init__()
        self.config = SRResNetConfig(scale=2, **SRRESNET)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, lr, noise):
        return self.weight * torch.nn.functional.interpolate(lr, scale_factor=2) + noise.mean(1, keepdim=True)


@pytest.mark.parametrize("wrapped", [Foreign, lambda: SelfEnsemble(Foreign())], ids=["network", "ensemble"])
def test_a_network_with_noise_and_no_texture_is_given_its_noise(wrapped):
    lr, generator = texture(0, 12, 14), wrapped()
    one, two = (super_resolve(generator, lr, noise=Noise(seed)) for seed in (0, 1))
    assert makes_grain(generator) and not torch.equal(one, two)
