"""RRDBNet, the generator of ESRGAN: residual-in-residual dense blocks on the LR grid, then convolutions up to
the HR grid.

Wang et al. (2018), "ESRGAN: enhanced super-resolution generative adversarial networks", figures 3 and 4;
enlargement by nearest neighbours and a convolution, as in the official code.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.models.layers import CONV, CONVS, Blocks, NoiseHead
from srgan_dist.models.upsampling import conv_behind_nearest, stages_of, upsampling_radius
from srgan_dist.utils.settings import Dimensions, NoiseChannels, Scale, Settings

CONVS_OF_A_BLOCK = 15  # three dense blocks of five 3-wide convolutions
INITIAL_SHARE = 0.1  # of He's initial weights in the dense blocks (official code)


class RRDBConfig(Settings):
    """Settings of RRDBNet; the defaults are those of the paper's official code."""

    name: Literal["rrdb"]
    ndim: Dimensions = 2
    scale: Scale = 4
    num_blocks: int = Field(23, ge=1, le=1000, description="residual-in-residual dense blocks")
    num_filters: int = Field(64, ge=1, le=4096, description="channels between the blocks")
    growth: int = Field(32, ge=1, le=4096, description="channels that each convolution of a dense block adds")
    residual_scale: float = Field(
        0.2, gt=0, le=1, description="factor of a block's output before it is added"
    )
    noise: NoiseChannels = 0
    tile_overlap: int = Field(
        32,
        ge=0,
        le=4096,
        description="LR pixels of surroundings that each tile is super-resolved with; the receptive field is"
        " larger, so"
        " that tiles agree to rounding only where it is small",
    )


class DenseBlock(nn.Module):
    """Five conv3, each of which sees the outputs of all before it (Huang et al. 2017), plus the block's
    input.
    """

    def __init__(self, conv, channels, growth, residual_scale):
        super().__init__()
        widths = [growth] * 4 + [channels]
        self.residual_scale = residual_scale
        self.convs = nn.ModuleList(
            conv(channels + growth * number, width, 3, padding=1) for number, width in enumerate(widths)
        )

    def forward(self, x):
        features = [x]
        for conv in self.convs[:-1]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return x + self.residual_scale * self.convs[-1](torch.cat(features, 1))


class RRDB(nn.Module):
    """Three dense blocks, plus the block's input."""

    def __init__(self, *arguments, residual_scale):
        super().__init__()
        self.residual_scale = residual_scale
        self.blocks = nn.Sequential(*(DenseBlock(*arguments, residual_scale) for _ in range(3)))

    def forward(self, x):
        return x + self.residual_scale * self.blocks(x)


class RRDBNet(nn.Module):
    """Generator: lr [B, 1, *shape] in [-1, 1] -> sr [B, 1, *(scale * shape)], unbounded. One with noise
    adds texture where it is also given noise [B, config.noise, *(scale * shape)].
    """

    TRUNK = "head", "blocks", "trunk"  # what works on the LR grid, of any scale

    def __init__(self, config):
        super().__init__()
        conv, channels = CONV[config.ndim], config.num_filters
        self.config = config
        self.head = conv(1, channels, 3, padding=1)
        blocks = (
            RRDB(conv, channels, config.growth, residual_scale=config.residual_scale)
            for _ in range(config.num_blocks)
        )
        self.blocks = Blocks(*blocks)
        self.trunk = conv(channels, channels, 3, padding=1)
        self.upscale = nn.ModuleList(
            conv_behind_nearest(config.ndim, factor)(channels, channels, 3, padding=1)
            for factor in stages_of(config.scale)
        )
        self.last = conv(channels, channels, 3, padding=1)
        self.tail = conv(channels, 1, 3, padding=1)
        self.texture = NoiseHead(conv, channels, channels, config.noise, channels) if config.noise else None
        self._initialize_dense_blocks()
        if self.texture:
            self.texture.initialize()

    @property
    def receptive_radius(self):
        """LR pixels beyond its own that an output pixel depends on, at most."""
        return 2 + CONVS_OF_A_BLOCK * self.config.num_blocks + self.upsampling_overlap

    @property
    def upsampling_overlap(self):
        """LR pixels of features beyond its own that an output pixel of `upsampled` depends on."""
        # 2 HR pixels: the two convolutions behind the enlargement
        radius = upsampling_radius(self.config.scale, 2, "nearest_before")
        return max(radius, NoiseHead.lr_radius if self.config.noise else 0)

    @property
    def tile_overlap(self):
        """LR pixels around a tile with which it is super-resolved: the setting, or all that an output depends
        on.
        """
        return min(self.config.tile_overlap, self.receptive_radius)

    @property
    def floats_per_pixel(self):
        """Numbers in memory at once per LR pixel: of features, and of `upsampled`, each at most about.

        They are 4 times what the last convolution of a dense block reads, and 5 feature maps of HR: measured
        in 3-D with oneDNN, 3.5 to 3.9 and 3.7.
        """
        width = self.config.num_filters
        return 4 * (width + 4 * self.config.growth), 5 * width * self.config.scale**self.config.ndim

    def forward(self, lr, *noise):
        return self.upsampled(self.features(lr), lr, *noise)

    def features(self, lr):
        """Return what the trunk makes of lr: features [B, num_filters, *shape]."""
        x = self.head(lr)
        return x + self.trunk(self.blocks(x))

    def upsampled(self, features, lr, *noise):
        """Return sr of a part of an image from the features, the LR and the noise of that part."""
        upscaled = features
        for conv in self.upscale:
            upscaled = F.leaky_relu(conv(upscaled), 0.2)
        sr = self.tail(F.leaky_relu(self.last(upscaled), 0.2))
        return sr + self.texture(upscaled, features, *noise) if noise else sr

    def _initialize_dense_blocks(self):
        for module in self.blocks.modules():
            if isinstance(module, CONVS):
                nn.init.kaiming_normal_(module.weight)
                module.weight.data.mul_(INITIAL_SHARE)
                nn.init.zeros_(module.bias)
