from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_config

from srgan_dist.losses import VGGLossConfig
from srgan_dist.models.layers import recompute_blocks
from srgan_dist.optim.ema import EMA
from srgan_dist.phases import build_phase
from srgan_dist.phases.phase import build_losses
from srgan_dist.phases.pretrain import PretrainConfig
from srgan_dist.run.training_run import build_networks
from srgan_dist.runtime.device import has_fast_bf16
from srgan_dist.utils.errors import UserError

VGG = VGGLossConfig(name="vgg19", weights="random", layer="relu2_2")


@pytest.fixture
def build(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    accelerator = Accelerator()

    def build(**changes):
        networks = build_networks(tiny_config("unused", tmp_path, **changes), accelerator)
        assert list(networks.initialized) == ["generator"]  # until a phase asks for more
        assert networks.initialized | {"discriminator": networks.discriminator} == networks.initialized
        return networks

    return build


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_the_initial_weights_depend_on_the_seed_alone(build):
    torch.manual_seed(1)
    one = build(seed=7)
    torch.manual_seed(2)
    torch.rand(5)
    same, other = build(seed=7), build(seed=8)
    for name in ("generator", "discriminator"):
        assert torch.equal(weights(getattr(same, name)), weights(getattr(one, name)))
        assert not torch.equal(weights(getattr(other, name)), weights(getattr(one, name)))


def test_the_initial_weights_of_the_discriminator_are_no_copy_of_the_generators(build):
    networks = build(generator={"num_blocks": 1, "num_filters": 4, "init_std": None})
    head, conv = networks.generator.head.weight, networks.discriminator.conv.weight
    assert head.shape == conv.shape and not torch.isclose(head, conv).any()


def test_building_leaves_the_global_random_state_alone(build):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    build()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("channels_last", [True, False])
def test_networks_and_losses_are_laid_out_as_the_config_says(build, channels_last):
    networks = build(channels_last=channels_last)
    losses = build_losses(PretrainConfig(losses={"perceptual": VGG}), networks, networks.accelerator)
    for conv in (
        networks.generator.trunk,
        networks.discriminator.blocks[1].conv,
        losses["perceptual"].features[2],
    ):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert conv.weight.is_contiguous() != channels_last


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_single_weight_of_either_network_that_is_no_number_is_found(build, name, value):
    networks = build()
    assert networks.are_finite() is True
    with torch.no_grad():
        next(getattr(networks, name).parameters())[-1, -1, -1, -1] = value
    assert networks.are_finite() is False


def test_the_weights_of_a_generator_alone_can_be_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    networks = build_networks(tiny_config("unused", tmp_path), Accelerator())
    assert networks.are_finite() and list(networks.initialized) == ["generator"]
    torch.nn.init.constant_(networks.generator.tail.bias, float("nan"))
    assert not networks.are_finite()


def test_compiling_changes_no_name_and_no_weight(build):
    plain, compiled = build(), build(compile=True)
    for name in ("generator", "discriminator"):
        assert getattr(compiled, name).state_dict().keys() == getattr(plain, name).state_dict().keys()
        assert torch.equal(weights(getattr(compiled, name)), weights(getattr(plain, name)))


def test_what_is_shown_is_the_ema_until_it_is_adopted(build):
    networks = build()
    assert networks.eval_generator is networks.generator
    networks.ema = EMA(networks.generator, 0.5)
    with torch.no_grad():
        networks.generator.tail.bias += 1
    networks.ema.update(torch.zeros(()))
    shown = networks.eval_generator.tail.bias.clone()
    assert shown == networks.generator.tail.bias - 0.5
    networks.adopt_ema()
    assert networks.eval_generator is networks.generator and networks.generator.tail.bias == shown


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_activation_checkpointing_changes_no_bit_of_an_update_and_keeps_less(
    ndim, phase, precision, micro_batches, tmp_path
):
    accelerator = Accelerator(mixed_precision=precision)
    settings = {"losses": {"pixel": {"name": "l1"}}}
    crops = [torch.rand(2, 1, *[side] * ndim) * 2 - 1 for side in (8, 32)]
    kept, found = [], []
    for recompute in (False, True):
        config = tiny_config(
            "unused",
            tmp_path,
            generator={"ndim": ndim, "num_blocks": 4, "num_filters": 4, "init_std": None},
            pretrain=settings,
            adversarial=settings,
            activation_checkpointing=recompute,
        )
        networks = build_networks(config, accelerator)
        trained = build_phase(getattr(config, phase), networks, accelerator)
        for _ in range(2):
            trained.update([crops] * micro_batches)
        found.append(weights(networks.generator))
        kept.append([])
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept[-1].append(x.numel()) or x, lambda x: x):
            networks.generator(crops[0]).sum()
    assert torch.equal(*found) and sum(kept[1]) < sum(kept[0])


def test_activation_checkpointing_of_a_generator_without_blocks_is_refused():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    network.config = SimpleNamespace(name="plain")
    with pytest.raises(UserError, match="activation_checkpointing=true: generator.name=plain has no Blocks"):
        recompute_blocks(network)


@pytest.mark.parametrize("upsampling", ["shuffle", "nearest_before", "nearest_after", "trilinear"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_features_of_volumes_stay_in_the_memory_format_of_the_networks(upsampling, precision, tmp_path):
    """Of all convolutions with several channels, which a compiler would lay out itself in two dimensions."""
    if precision == "bf16" and not has_fast_bf16("cpu"):
        pytest.skip("a CPU that emulates bfloat16 has a memory format of its own")
    generator = {"ndim": 3, "scale": 4, "num_blocks": 1, "num_filters": 8, "upsampling": upsampling}
    config = tiny_config("unused", tmp_path, generator=generator)
    networks = build_networks(config, Accelerator(mixed_precision=precision))
    laid_out = []
    for network in (networks.generator, networks.discriminator):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d) and module.in_channels > 1:
                module.register_forward_hook(lambda _, inputs, output: laid_out.extend([inputs[0], output]))
    networks.discriminator(networks.generator(torch.rand(2, 1, 8, 8, 8)))
    assert len(laid_out) > 20
    for x in laid_out:
        assert x.stride(1) == 1 or x.shape[1] == 1
