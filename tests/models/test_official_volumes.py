"""The networks of the paper's official code for volumes (sr3dModels.py), layer by layer, and its recipe."""

import pytest
import torch
from conftest import REPOSITORY

from srgan_dist.config import ConfigError, load_config, parse_config
from srgan_dist.models import build_discriminator, build_generator
from srgan_dist.models.summary import count_parameters, list_layers

CONFIG = load_config(REPOSITORY / "configs" / "deeprock3d_x4.yaml")
# Layer, channels and side of its output, parameters; nearest neighbours are part of the next convolution
HEAD = [("Conv3d", 64, 16, 1_792)]
BLOCK = [
    ("Conv3d", 64, 16, 110_656),
    ("PReLU", 64, 16, 64),
    ("Conv3d", 64, 16, 110_656),
    ("ResidualBlock", 64, 16, 0),
]
BEHIND_BLOCKS = [
    ("Conv3d", 64, 16, 110_656),
    ("Conv3d", 64, 16, 110_656),
    ("PReLU", 64, 16, 64),
    ("NearestLayer", 64, 16, 0),
    ("NearestConv3d", 64, 32, 110_656),
    ("PReLU", 64, 32, 64),
    ("NearestLayer", 64, 32, 0),
    ("NearestConv3d", 1, 64, 1_729),
]
# Channels and side behind each convolution of the discriminator, its parameters
CONVS = [
    (64, 32, 110_656),
    (128, 32, 221_312),
    (128, 16, 442_496),
    (256, 16, 884_992),
    (256, 8, 1_769_728),
    (512, 8, 3_539_456),
    (512, 4, 7_078_400),
]


def table(network, side):
    """Return (class, channels, side or None, parameters) of every layer."""
    rows = list_layers(network.to("meta"), (1, side, side, side))
    return [
        (row.name.partition("-")[0], row.output_shape[0], *row.output_shape[1:2], row.parameters)
        for row in rows
    ]


def test_the_generator():
    generator = build_generator(CONFIG.generator)
    assert table(generator, 16) == HEAD + 16 * BLOCK + BEHIND_BLOCKS
    assert count_parameters(generator) == 3_877_633


def test_with_32_filters():
    generator = build_generator(CONFIG.generator.model_copy(update={"num_filters": 32}))
    assert count_parameters(generator) == 971_137


def test_with_pixel_shuffle():
    changes = {"upsampling": "shuffle"}
    assert count_parameters(build_generator(CONFIG.generator.model_copy(update=changes))) == 5_426_817


def test_the_discriminator():
    with torch.device("meta"):
        discriminator = build_discriminator(CONFIG.discriminator, 64, 3)
    expected = [("Conv3d", 64, 64, 1_792), ("LeakyReLU", 64, 64, 0)]
    for channels, side, parameters in CONVS:
        expected += [
            ("Conv3d", channels, side, parameters),
            ("BatchNorm3d", channels, side, 2 * channels),
            ("LeakyReLU", channels, side, 0),
            ("DiscriminatorBlock", channels, side, 0),
        ]
    expected += [
        ("Flatten", 32_768, 0),
        ("Linear", 1024, 33_555_456),
        ("LeakyReLU", 1024, 0),
        ("Linear", 1, 1_025),
    ]
    assert table(discriminator, 64) == expected
    assert count_parameters(discriminator) == 47_609_025
    slopes = {
        module.negative_slope for module in discriminator.modules() if isinstance(module, torch.nn.LeakyReLU)
    }
    assert slopes == {0.3}


@pytest.mark.parametrize("crop, millions", [(96, 127.3), (128, 282.5)])
def test_larger_crops_have_larger_discriminators(crop, millions):
    with torch.device("meta"):
        discriminator = build_discriminator(CONFIG.discriminator, crop, 3)
    assert round(count_parameters(discriminator) / 1e6, 1) == millions


def test_a_discriminator_out_of_proportion_is_refused():
    raw = {"name": "a", "data": {"path": "p", "lr_crop": 24}, "generator": {"ndim": 3}}
    parse_config(raw)  # 113.2 million weights
    raw["data"]["lr_crop"] = 32
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    text = "data.lr_crop=32 times generator.scale=4: discriminator.name=dense has 268.4 million weights"
    assert text in str(caught.value) and "use discriminator.name=patch, smaller crops" in str(caught.value)
    for way_out in ({"name": "patch"}, {"num_filters": 32}, {"num_dense": 512}):
        parse_config(raw | {"discriminator": way_out})


def test_the_recipe_is_the_papers():
    assert (CONFIG.generator.ndim, CONFIG.data.lr_crop, CONFIG.data.batch_size, CONFIG.hr_crop) == (
        3,
        16,
        16,
        64,
    )
    assert (CONFIG.pretrain.steps, CONFIG.adversarial.steps) == (100_000, 150_000)
    assert [phase.lr_schedule.decay_every for _, phase in CONFIG.phases()] == [50_000, 100_000]
    assert [phase.learning_rate for _, phase in CONFIG.phases()] == [1e-4, 1e-4]
    assert CONFIG.pretrain.loss_weights() == {"pixel": 1.0}
    assert CONFIG.adversarial.loss_weights() == {"pixel": 1.0, "adversarial": 1e-3}
    assert CONFIG.data.augment == "none"
