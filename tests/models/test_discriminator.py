import pytest
import torch
from conftest import REPOSITORY

from srgan_dist.config import load_config
from srgan_dist.models.discriminator import DenseDiscriminatorConfig, Discriminator, DiscriminatorBlock
from srgan_dist.models.summary import count_parameters, list_layers

# The discriminator's table of the reproduction report: layer, output shape, parameters
REPORT = [
    ("Conv2d-1", (64, 190, 190), 640),
    ("LeakyReLU-2", (64, 190, 190), 0),
    ("Conv2d-3", (64, 94, 94), 36_928),
    ("BatchNorm2d-4", (64, 94, 94), 128),
    ("LeakyReLU-5", (64, 94, 94), 0),
    ("DiscriminatorBlock-6", (64, 94, 94), 0),
    ("Conv2d-7", (128, 92, 92), 73_856),
    ("BatchNorm2d-8", (128, 92, 92), 256),
    ("LeakyReLU-9", (128, 92, 92), 0),
    ("DiscriminatorBlock-10", (128, 92, 92), 0),
    ("Conv2d-11", (128, 45, 45), 147_584),
    ("BatchNorm2d-12", (128, 45, 45), 256),
    ("LeakyReLU-13", (128, 45, 45), 0),
    ("DiscriminatorBlock-14", (128, 45, 45), 0),
    ("Conv2d-15", (256, 43, 43), 295_168),
    ("BatchNorm2d-16", (256, 43, 43), 512),
    ("LeakyReLU-17", (256, 43, 43), 0),
    ("DiscriminatorBlock-18", (256, 43, 43), 0),
    ("Conv2d-19", (256, 21, 21), 590_080),
    ("BatchNorm2d-20", (256, 21, 21), 512),
    ("LeakyReLU-21", (256, 21, 21), 0),
    ("DiscriminatorBlock-22", (256, 21, 21), 0),
    ("Conv2d-23", (512, 19, 19), 1_180_160),
    ("BatchNorm2d-24", (512, 19, 19), 1_024),
    ("LeakyReLU-25", (512, 19, 19), 0),
    ("DiscriminatorBlock-26", (512, 19, 19), 0),
    ("Conv2d-27", (512, 9, 9), 2_359_808),
    ("BatchNorm2d-28", (512, 9, 9), 1_024),
    ("LeakyReLU-29", (512, 9, 9), 0),
    ("DiscriminatorBlock-30", (512, 9, 9), 0),
    ("Flatten-31", (41_472,), 0),
    ("Linear-32", (1_024,), 42_468_352),
    ("LeakyReLU-33", (1_024,), 0),
    ("Linear-34", (1,), 1_025),
    ("Sigmoid-35", (1,), 0),
]


def test_report_config_gives_the_reports_table_row_by_row():
    config = load_config(REPOSITORY / "configs" / "report_x4.yaml")
    discriminator = Discriminator(config.discriminator, config.hr_crop)
    layers = list_layers(discriminator, (1, 192, 192), discriminator.probabilities)
    assert [(layer.name, layer.output_shape, layer.parameters) for layer in layers] == REPORT
    assert count_parameters(discriminator) == 47_157_313


def test_forward_gives_logits_and_probabilities_their_sigmoid():
    discriminator = Discriminator(
        DenseDiscriminatorConfig(num_filters=4, num_dense=8, init_std=None), 32
    ).eval()
    image = torch.randn(3, 1, 32, 32)
    logits = discriminator(image)
    assert logits.shape == (3, 1)
    assert torch.equal(discriminator.probabilities(image), torch.sigmoid(logits))
    with torch.no_grad():
        discriminator.dense2.bias += 50
    assert discriminator(image).min() > 40  # not squeezed into [0, 1]


@pytest.mark.parametrize(
    "padding, crop, side", [(1, 192, 12), (0, 192, 9), (1, 96, 6), (1, 100, 7), (1, 4, 1), (0, 61, 1)]
)
def test_any_crop_that_the_strides_allow(padding, crop, side):
    assert DenseDiscriminatorConfig(padding=padding).final_side(crop) == side
    discriminator = Discriminator(DenseDiscriminatorConfig(num_filters=2, num_dense=4, padding=padding), crop)
    assert discriminator(torch.zeros(2, 1, crop, crop)).shape == (2, 1)


def test_a_crop_that_vanishes_is_refused_with_the_smallest_that_works():
    with pytest.raises(ValueError, match="HR crop of 60 pixels vanishes .*padding=0.*; use 61 or more"):
        Discriminator(DenseDiscriminatorConfig(padding=0), 60)


def pass_first_channel(layer):
    """Let a convolution or dense layer hand on its first input as its first output, and nothing else."""
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[(0, 0, 1, 1) if layer.weight.ndim == 4 else (0, 0)] = 1


def test_a_block_keeps_a_fifth_of_what_is_negative():
    # In eval mode a new batch norm is the identity
    block = DiscriminatorBlock(2, 1, 1, stride=1, padding=1).eval()
    pass_first_channel(block.conv)
    out = block(torch.tensor([[[[-1.0, 2.0]]]]))
    assert out.flatten().tolist() == pytest.approx([-0.2, 2.0], rel=1e-4)


def test_a_block_normalises_before_it_activates():
    block = DiscriminatorBlock(2, 1, 1, stride=1, padding=1)
    pass_first_channel(block.conv)
    out = block(torch.tensor([[[[3.0, 7.0]]]]))  # mean 5, standard deviation 2
    assert out.flatten().tolist() == pytest.approx([-0.2, 1.0], rel=1e-4)


def test_a_negative_signal_shrinks_to_a_fifth_at_each_of_the_nine_activations():
    discriminator = Discriminator(DenseDiscriminatorConfig(num_filters=1, num_dense=2), 16).eval()
    for module in discriminator.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            pass_first_channel(module)
    assert discriminator(torch.ones(1, 1, 16, 16)).item() == pytest.approx(1, rel=1e-3)
    assert discriminator(-torch.ones(1, 1, 16, 16)).item() == pytest.approx(-(0.2**9), rel=1e-3)


@pytest.mark.parametrize("std", [0.02, 0.3])
def test_init_std_is_the_standard_deviation_of_all_weights_at_the_start(std):
    torch.manual_seed(0)
    discriminator = Discriminator(DenseDiscriminatorConfig(num_filters=8, num_dense=32, init_std=std), 32)
    layers = [
        module for module in discriminator.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    assert len(layers) == 10 and not any(layer.bias.any() for layer in layers)
    for layer in layers:  # four standard errors
        assert layer.weight.std().item() == pytest.approx(std, rel=4 / (2 * layer.weight.numel()) ** 0.5)
    weights = torch.cat([layer.weight.flatten() for layer in layers]) / std
    assert weights.mean().item() == pytest.approx(0, abs=0.02) and weights.pow(
        4
    ).mean().item() == pytest.approx(3, rel=0.05)
    norms = [module for module in discriminator.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_without_init_std_the_weights_are_pytorchs_own():
    torch.manual_seed(0)
    discriminator = Discriminator(DenseDiscriminatorConfig(num_filters=4, num_dense=8, init_std=None), 32)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(1, 4, 3)  # the first that is drawn
    assert torch.equal(discriminator.conv.weight, conv.weight) and torch.equal(
        discriminator.conv.bias, conv.bias
    )
