"""SRResNet: residual blocks on the LR grid, then sub-pixel or resize convolutions up to the HR grid.

Ledig et al. (2017), "Photo-realistic single image super-resolution using a generative adversarial network",
without batch normalisation, as in the official code of Wang, Armstrong, Mostaghimi (2020).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.models.layers import (
    CONV,
    NoiseHead,
    PixelShuffle,
    PReLU,
    initialize,
    stages_of,
    upsampling_radius,
)
from srgan_dist.utils.settings import Dimensions, NoiseChannels, Scale, Settings


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
    upscale_filters: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="channels behind each upsampling stage, where pixels are many; null: num_filters",
    )
    upsampling: Literal["shuffle", "resize"] = Field(
        "shuffle",
        description="shuffle: convolution, then channels to space; resize: nearest neighbours, then"
        " convolution",
    )
    noise: NoiseChannels = 0
    input_skip: bool = Field(
        False,
        description="add LR, enlarged by bicubic (volumes: trilinear) interpolation, to the output, so that"
        " the network learns what interpolation lacks",
    )
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

    def __init__(self, conv, channels, width, slopes, factor, ndim):
        super().__init__()
        self.conv = conv(channels, factor**ndim * width, 3, padding=1)
        self.shuffle = PixelShuffle(factor)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.shuffle(self.conv(x)))


class ResizeLayer(nn.Module):
    """Nearest neighbours to `factor` times the size, conv3, PReLU (Odena et al. 2016, "Deconvolution and
    checkerboard artifacts").
    """

    def __init__(self, conv, channels, width, slopes, factor, ndim):
        super().__init__()
        self.factor = factor
        self.conv = conv(channels, width, 3, padding=1)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.conv(F.interpolate(x, scale_factor=self.factor, mode="nearest")))


UPSAMPLING = {"shuffle": UpscaleLayer, "resize": ResizeLayer}


class SRResNet(nn.Module):
    """Generator: lr [B, 1, *shape] in [-1, 1] -> sr [B, 1, *(scale * shape)] in [-1, 1] up to overshoot. One
    with noise adds texture where it is also given noise [B, config.noise, *(scale * shape)].
    """

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
        width = config.upscale_filters or channels
        upscale_slopes = width if config.prelu == "channel" else 1
        layer, stages = UPSAMPLING[config.upsampling], []
        for number, factor in enumerate(stages_of(config.scale)):
            stages.append(
                layer(conv, width if number else channels, width, upscale_slopes, factor, config.ndim)
            )
        self.upscale = nn.Sequential(*stages)
        self.tail = conv(width, 1, 1)
        self.texture = (
            NoiseHead(conv, channels, width, config.noise, upscale_slopes) if config.noise else None
        )
        initialize(self, config.init_std)
        if self.texture:
            self.texture.initialize()

    @property
    def tile_overlap(self):
        """LR pixels beyond its own that an output pixel depends on: with so much around them, tiles are
        exact.
        """
        behind = NoiseHead.radius if self.config.noise else 0
        upsampling = upsampling_radius(self.config.scale, behind, self.config.upsampling == "resize")
        behind_trunk = max(upsampling, NoiseHead.lr_radius if self.config.noise else 0)
        return 1 + 2 * self.config.num_blocks + 1 + behind_trunk

    def forward(self, lr, *noise):
        x = self.head(lr)
        features = self.trunk(self.blocks(x))
        if self.config.long_skip:
            features = features + x
        upscaled = self.upscale(features)
        sr = self.tail(upscaled)
        if noise:
            sr = sr + self.texture(upscaled, features, *noise)
        if self.config.input_skip:
            mode = {2: "bicubic", 3: "trilinear"}[self.config.ndim]
            sr = sr + F.interpolate(lr, scale_factor=self.config.scale, mode=mode)
        return torch.tanh(sr) if self.config.tanh else sr
