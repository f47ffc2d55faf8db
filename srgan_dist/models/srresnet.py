"""SRResNet, the generator: residual blocks on the LR grid, then sub-pixel convolutions up to the HR grid.

Ledig et al. (2017), "Photo-realistic single image super-resolution using a generative adversarial network", without
batch normalisation, as in the official code of Wang, Armstrong, Mostaghimi (2020).
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import nn

from srgan_dist.models.prelu import PReLU
from srgan_dist.utils.settings import Settings


def _power_of_two(scale):
    if scale < 2 or scale & (scale - 1):
        raise ValueError("must be a power of two, each stage doubles the size; use 2, 4 or 8")
    return scale


class SRResNetConfig(Settings):
    """Settings of SRResNet; the defaults are those of the paper's official code."""

    name: Literal["srresnet"] = "srresnet"
    scale: Annotated[int, AfterValidator(_power_of_two)] = Field(
        4, description="HR size over LR size: 2, 4 or 8"
    )
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
        description="standard deviation of the convolution weights at the start, biases 0; null: PyTorch's own",
    )


class ResidualBlock(nn.Module):
    """conv3 - PReLU - conv3, plus the block's input."""

    def __init__(self, channels, slopes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.prelu = PReLU(slopes)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.prelu(self.conv1(x)))


class UpscaleLayer(nn.Module):
    """conv3 to four times the channels, which PixelShuffle turns into twice the size (Shi et al. 2016), PReLU."""

    def __init__(self, channels, slopes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.prelu = PReLU(slopes)

    def forward(self, x):
        return self.prelu(self.shuffle(self.conv(x)))


class SRResNet(nn.Module):
    """Generator: lr [B, 1, H, W] in [-1, 1] -> sr [B, 1, s*H, s*W], s = scale, in [-1, 1] up to overshoot."""

    def __init__(self, config):
        super().__init__()
        channels = config.num_filters
        slopes = channels if config.prelu == "channel" else 1
        self.config = config
        self.head = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, slopes) for _ in range(config.num_blocks)))
        self.trunk = nn.Conv2d(channels, channels, 3, padding=1)
        self.upscale = nn.Sequential(*(UpscaleLayer(channels, slopes) for _ in range(self.stages)))
        self.tail = nn.Conv2d(channels, 1, 1)
        if config.init_std is not None:
            self.apply(self._initialise)

    @property
    def stages(self):
        return int(math.log2(self.config.scale))

    @property
    def receptive_radius(self):
        """LR pixels beyond its own that an output pixel depends on, rounded up."""
        on_lr_grid = 1 + 2 * self.config.num_blocks + 1
        return on_lr_grid + math.ceil(sum(0.5**stage for stage in range(self.stages)))

    def forward(self, lr):
        x = self.head(lr)
        features = self.trunk(self.blocks(x))
        if self.config.long_skip:
            features = features + x
        sr = self.tail(self.upscale(features))
        return torch.tanh(sr) if self.config.tanh else sr

    def _initialise(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.init_std)
            nn.init.zeros_(module.bias)
