import pytest
import torch

from conftest import REPOSITORY
from srgan_dist.config import load_config
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.table import count_parameters, format_layers, list_layers

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
    assert (config.num_blocks, config.num_filters, config.long_skip, config.tanh, config.prelu) == (16, 64, True, True, "channel")
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


def test_initial_weights_follow_init_std():
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(num_blocks=2, init_std=0.02))
    assert generator.trunk.weight.std().item() == pytest.approx(0.02, rel=0.03) and not generator.trunk.bias.any()


@pytest.mark.parametrize("scale, blocks", [(2, 1), (4, 1), (4, 3), (8, 2)])
def test_receptive_radius_is_as_far_as_an_output_pixel_looks(scale, blocks):
    torch.manual_seed(0)
    generator = SRResNet(SRResNetConfig(scale=scale, num_blocks=blocks, num_filters=4, init_std=None))
    radius = generator.receptive_radius
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
    assert "Conv2d-1                4x8x8" in text and text.splitlines()[-1].split() == ["total", f"{count_parameters(generator):,}"]
