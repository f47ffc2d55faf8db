"""SRResNet: residual blocks on the LR grid, then sub-pixel convolutions up to the HR grid.

Ledig et al. (2017), "Photo-realistic single image super-resolution using a generative adversarial network",
without batch normalisation, as in the official code of Wang, Armstrong, Mostaghimi (2020).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from srgan_dist.models.layers import CONV, PixelShuffle, PReLU, initialize, stages_of, upsampling_radius
from srgan_dist.utils.settings import Dimensions, Scale, Settings


class SRResNetConfig(Settings):
    """Settings of SRResNet; the defaults are those of the paper's official code."""

    name: Literal["srresnet"] = "srresnet"
    ndim: Dimensions = 2
    scale: Scale = 4
    num_blocks: int = Field(16, ge=1, le=1000, description="residual blocks (the report has 1)")
    num_filters: int = Field(
        64, ge=1, le=4096, description="channels on the LR grid and between the upsampling stages"
    )
    prelu: Literal["channel", "layer"] = Field(
        "channel", description="one PReLU slope per channel or per layer"
    )
    long_skip: bool = Field(True, description="add the first convolution's output to the last block's")
    tanh: bool = Field(True, description="bound the output to [-1, 1]")
    init_std: float | None = Field(
        0.02,
        gt=0,
        description="standard deviation of the initial convolution weights, biases 0; null: PyTorch's own",
    )


class ResidualBlock(nn.Module):
    """conv3 - PReLU - conv3, plus the block's input."""

    def __init__(self, conv, channels, slopes):
        super().__init__()
        self.conv1 = conv(channels, channels, 3, padding=1)
        self.prelu = PReLU(slopes)
        self.conv2 = conv(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.prelu(self.conv1(x)))


class UpscaleLayer(nn.Module):
    """conv3 to factor^n times the channels, which the pixel shuffle turns into `factor` times the size,
    PReLU.
    """

    def __init__(self, conv, channels, slopes, factor, ndim):
        super().__init__()
        self.conv = conv(channels, factor**ndim * channels, 3, padding=1)
        self.shuffle = PixelShuffle(factor)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.shuffle(self.conv(x)))


class SRResNet(nn.Module):
    """Generator: lr [B, 1, *shape] in [-1, 1] -> sr [B, 1, *(scale * shape)] in [-1, 1] up to overshoot."""

    def __init__(self, config):
        super().__init__()
        conv, channels = CONV[config.ndim], config.num_filters
        slopes = channels if config.prelu == "channel" else 1
        self.config = config
        self.head = conv(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(conv, channels, slopes) for _ in range(config.num_blocks))
        )
        self.trunk = conv(channels, channels, 3, padding=1)
        stages = [UpscaleLayer(conv, channels, slopes, f, config.ndim) for f in stages_of(config.scale)]
        self.upscale = nn.Sequential(*stages)
        self.tail = conv(channels, 1, 1)
        initialize(self, config.init_std)

    @property
    def tile_overlap(self):
        """LR pixels beyond its own that an output pixel depends on: with so much around them, tiles are
        exact.
        """
        return 1 + 2 * self.config.num_blocks + 1 + upsampling_radius(self.config.scale)

    def forward(self, lr):
        x = self.head(lr)
        features = self.trunk(self.blocks(x))
        if self.config.long_skip:
            features = features + x
        sr = self.tail(self.upscale(features))
        return torch.tanh(sr) if self.config.tanh else sr
