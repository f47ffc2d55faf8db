import pytest
import torch
from conftest import REPOSITORY

from srgan_dist.config import load_config
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import ResidualBlock, SRResNet, SRResNetConfig
from srgan_dist.models.summary import count_parameters, format_layers, list_layers

# The generator's table of the reproduction report: layer, output shape, parameters
REPORT = [
    ("Conv2d-1", (64, 48, 48), 640),
    ("Conv2d-2", (64, 48, 48), 36_928),
    ("PReLU-3", (64, 48, 48), 1),
    ("Conv2d-4", (64, 48, 48), 36_928),
    ("ResidualBlock-5", (64, 48, 48), 0),
    ("Conv2d-6", (64, 48, 48), 36_928),
    ("Conv2d-7", (256, 48, 48), 147_712),
    ("PixelShuffle-8", (64, 96, 96), 0),
    ("PReLU-9", (64, 96, 96), 1),
    ("UpscaleLayer-10", (64, 96, 96), 0),
    ("Conv2d-11", (256, 96, 96), 147_712),
    ("PixelShuffle-12", (64, 192, 192), 0),
    ("PReLU-13", (64, 192, 192), 1),
    ("UpscaleLayer-14", (64, 192, 192), 0),
    ("Conv2d-15", (1, 192, 192), 65),
]


def test_report_config_gives_the_reports_table_row_by_row():
    generator = build_generator(load_config(REPOSITORY / "configs" / "report_x4.yaml").generator)
    layers = list_layers(generator, (1, 48, 48))
    assert [(layer.name, layer.output_shape, layer.parameters) for layer in layers] == REPORT
    assert count_parameters(generator) == 406_916


def test_paper_config_has_16_blocks_padding_skip_and_tanh():
    config = load_config(REPOSITORY / "configs" / "deeprock_x4.yaml").generator
    assert config == SRResNetConfig()
    assert (config.num_blocks, config.num_filters, config.long_skip, config.tanh, config.prelu) == (
        16,
        64,
        True,
        True,
        "channel",
    )
    generator = build_generator(config)
    # 640 + 16 x 2 x 36,928 + 36,928 + 2 x 147,712 + 65 of convolutions, 18 x 64 slopes
    assert count_parameters(generator) == 640 + 33 * 36_928 + 2 * 147_712 + 65 + 18 * 64
    assert sum(layer.name.startswith("ResidualBlock") for layer in list_layers(generator, (1, 8, 8))) == 16


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_every_scale_enlarges_by_itself(scale):
    generator = SRResNet(SRResNetConfig(scale=scale, num_blocks=1, num_filters=4))
    assert generator(torch.zeros(2, 1, 5, 7)).shape == (2, 1, 5 * scale, 7 * scale)


def test_tanh_bounds_the_output_and_its_absence_does_not():
    lr = torch.full((1, 1, 4, 4), 1.0)
    for tanh in (True, False):
        generator = SRResNet(SRResNetConfig(num_blocks=1, num_filters=4, tanh=tanh, init_std=1.0))
        assert bool(generator(lr).abs().max() <= 1) == tanh


def test_what_is_learned_is_added_to_the_interpolated_image():
    config = SRResNetConfig(num_blocks=1, num_filters=4, tanh=False, input_skip=True)
    generator, lr = SRResNet(config), torch.rand(1, 1, 9, 8)
    torch.nn.init.zeros_(generator.tail.weight)
    bicubic = torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic")
    assert torch.equal(generator(lr), bicubic)


def test_a_convolution_of_nearest_neighbours_without_its_kernels_repeats_pixels():
    config = SRResNetConfig(scale=6, num_blocks=1, num_filters=4, upsampling="nearest_before", tanh=False)
    generator, lr = SRResNet(config), torch.rand(1, 1, 3, 5)
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            scale_only(module, 1.0 if module.in_channels == 1 else 0.5)
    expected = generator(lr)[..., ::6, ::6]
    assert torch.equal(generator(lr), expected.repeat_interleave(6, 2).repeat_interleave(6, 3))
    assert expected.unique().numel() == 15


def test_stages_have_the_channels_of_upscale_filters():
    widths = {
        name: weight.shape[:2]
        for name, weight in SRResNet(SRResNetConfig(num_blocks=1, num_filters=8, upscale_filters=3))
        .state_dict()
        .items()
        if name.startswith(("upscale", "tail")) and name.endswith("conv.weight") or name == "tail.weight"
    }
    assert widths == {
        "upscale.0.conv.weight": (12, 8),
        "upscale.1.conv.weight": (12, 3),
        "tail.weight": (1, 3),
    }


def scale_only(conv, factor):
    """Let a convolution multiply every pixel by `factor`, alike in all its outputs, and nothing else."""
    torch.nn.init.zeros_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    with torch.no_grad():
        conv.weight[:, 0, middle, middle] = factor


def test_a_residual_block_without_its_convolutions_is_the_identity():
    block = ResidualBlock(torch.nn.Conv2d, 4, 4)
    for parameter in (*block.conv1.parameters(), *block.conv2.parameters()):
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(block(x), x)


def test_a_residual_block_worked_by_hand():
    block = ResidualBlock(torch.nn.Conv2d, 1, 1)
    scale_only(block.conv1, 2)
    scale_only(block.conv2, -3)
    # x - 3 PReLU(2 x), slope 0.25 below zero: 1 - 6 and -1 + 1.5
    assert block(torch.tensor([[[[1.0, -1.0]]]])).flatten().tolist() == [-5.0, 0.5]


@pytest.mark.parametrize("long_skip, expected", [(True, 6.6), (False, 6.0)])
def test_the_long_skip_adds_the_heads_output_to_the_trunks(long_skip, expected):
    generator = SRResNet(
        SRResNetConfig(scale=2, num_blocks=1, num_filters=1, long_skip=long_skip, tanh=False)
    )
    factors = {
        generator.head: 2,
        generator.blocks[0].conv1: 1,
        generator.blocks[0].conv2: 1,
        generator.trunk: 5,
        generator.upscale[0].conv: 1,
        generator.tail: 3,
    }
    for conv, factor in factors.items():
        scale_only(conv, factor)
    # head 0.2, block 0.4, trunk 2.0, with the skip 2.2, tail three times that
    sr = generator(torch.full((1, 1, 3, 3), 0.1))
    torch.testing.assert_close(sr, torch.full((1, 1, 6, 6), expected))


@pytest.mark.parametrize("std", [0.02, 0.3])
def test_init_std_is_the_standard_deviation_of_all_weights_at_the_start(std):
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(num_blocks=2, num_filters=32, init_std=std))
    convs = [module for module in generator.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convs) == 9 and not any(conv.bias.any() for conv in convs)
    for conv in convs:  # four standard errors
        assert conv.weight.std().item() == pytest.approx(std, rel=4 / (2 * conv.weight.numel()) ** 0.5)
    weights = torch.cat([conv.weight.flatten() for conv in convs]) / std
    assert weights.mean().item() == pytest.approx(0, abs=0.02) and weights.pow(
        4
    ).mean().item() == pytest.approx(3, rel=0.05)
    assert all((m.weight == 0.25).all() for m in generator.modules() if isinstance(m, torch.nn.PReLU))


def test_without_init_std_the_weights_are_pytorchs_own():
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(num_blocks=1, num_filters=8, init_std=None))
    torch.manual_seed(0)
    head = torch.nn.Conv2d(1, 8, 3)  # the first that is drawn
    assert torch.equal(generator.head.weight, head.weight) and torch.equal(generator.head.bias, head.bias)


@pytest.mark.parametrize("scale, blocks", [(2, 1), (3, 1), (4, 1), (4, 3), (6, 1), (8, 2)])
def test_tile_overlap_is_as_far_as_an_output_pixel_looks(scale, blocks):
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(scale=scale, num_blocks=blocks, num_filters=4, init_std=None))
    radius = generator.tile_overlap
    side = 2 * radius + 9
    lr = torch.randn(1, 1, side, side, requires_grad=True)
    centre = side // 2
    sr = generator(lr)[0, 0, centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale]
    sr.sum().backward()
    reached = lr.grad[0, 0].nonzero()
    assert (reached - centre).abs().max() == radius


def test_summary_as_text():
    generator = SRResNet(SRResNetConfig(num_blocks=1, num_filters=4, long_skip=False, tanh=False))
    text = format_layers("generator", generator, (1, 8, 8))
    assert "Conv2d-1                4x8x8" in text and text.splitlines()[-1].split() == [
        "total",
        f"{count_parameters(generator):,}",
    ]
