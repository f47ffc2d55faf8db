"""Crops that are too small for a loss or a discriminator are refused before a training."""

import pytest

from srgan_dist.config import ConfigError, parse_config


def loss(name):
    return {"adversarial": None, "pretrain": {"losses": {"texture": {"name": name}}}}


@pytest.mark.parametrize(
    "lr_crop, change, words",
    [
        (
            5,
            loss("covariance"),
            "20 pixels holds no block of pretrain.losses.texture.block=24; use 20 or less",
        ),
        (
            3,
            loss("stationarity"),
            "data.lr_crop=3: pretrain.losses.texture needs crops of 4 LR pixels or more",
        ),
        (
            15,
            {"discriminator": {"padding": 0}},
            "data.lr_crop=15 times generator.scale=4: an HR crop of 60 pixels vanishes",
        ),
        (
            3,
            {"discriminator": {"padding": 1}},
            "data.lr_crop=3 times generator.scale=4: an HR crop of 12 pixels vanishes in VGG-19 before"
            " adversarial.losses.perceptual.layer=relu5_4; use 16 or more, or another layer",
        ),
    ],
)
def test_crops_that_are_too_small_are_named_with_the_smallest(lr_crop, change, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({"name": "a", "data": {"path": "p", "lr_crop": lr_crop}} | change)
    assert words in str(caught.value)
