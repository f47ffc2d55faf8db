"""SRResNet: residual blocks on the LR grid, then sub-pixel convolutions or others up to the HR grid.

Ledig et al. (2017), "Photo-realistic single image super-resolution using a generative adversarial network",
without batch normalisation, as in the official code of Wang, Armstrong, Mostaghimi (2020). Their code for
volumes has upsampling=nearest_after and tail_kernel=3.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from srgan_dist.models.layers import CONV, Blocks, NoiseHead, PReLU, initialize
from srgan_dist.models.upsampling import (
    LinearLayer,
    NearestLayer,
    UpscaleLayer,
    conv_behind_nearest,
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
    upsampling: Literal["shuffle", "nearest_before", "nearest_after", "trilinear"] = Field(
        "shuffle",
        description="shuffle: convolution, then channels to space; nearest_before: nearest neighbours, then"
        " convolution; nearest_after: convolution, then nearest neighbours, the order of the official code"
        " for volumes; trilinear: interpolation (images: bilinear), then convolution",
    )
    icnr: bool = Field(
        False,
        description="of upsampling=shuffle: at first all positions within a pixel have the same weights, so"
        " that the untrained network draws no lattice",
    )
    tail_kernel: Literal[1, 3] = Field(
        1, description="size of the last convolution's kernel (official code: 1, for volumes 3)"
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

    @model_validator(mode="after")
    def _check_icnr(self):
        if self.icnr and self.upsampling != "shuffle":
            raise ValueError(
                f"icnr=true is for upsampling=shuffle, not {self.upsampling}, which draws no lattice; leave"
                " it out"
            )
        return self


class ResidualBlock(nn.Module):
    """conv3 - PReLU - conv3, plus the block's input."""

    def __init__(self, conv, channels, slopes):
        super().__init__()
        self.conv1 = conv(channels, channels, 3, padding=1)
        self.prelu = PReLU(slopes)
        self.conv2 = conv(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.prelu(self.conv1(x)))


UPSAMPLING = {
    "shuffle": UpscaleLayer,
    "nearest_before": NearestLayer,
    "nearest_after": NearestLayer,
    "trilinear": LinearLayer,
}


class SRResNet(nn.Module):
    """Generator: lr [B, 1, *shape] in [-1, 1] -> sr [B, 1, *(scale * shape)] in [-1, 1] up to overshoot. One
    with noise adds texture where it is also given noise [B, config.noise, *(scale * shape)].
    """

    TRUNK = "head", "blocks", "trunk"  # what works on the LR grid, of any scale

    def __init__(self, config):
        super().__init__()
        conv, channels = CONV[config.ndim], config.num_filters
        slopes = channels if config.prelu == "channel" else 1
        self.config = config
        self.head = conv(1, channels, 3, padding=1)
        self.blocks = Blocks(*(ResidualBlock(conv, channels, slopes) for _ in range(config.num_blocks)))
        self.trunk = conv(channels, channels, 3, padding=1)
        width = config.upscale_filters or channels
        upscale_slopes = width if config.prelu == "channel" else 1

        # A stage that ends with nearest neighbours leaves these to the convolution behind it
        factors, left = stages_of(config.scale), 1
        if config.upsampling == "nearest_after":
            factors, left = [1, *factors[:-1]], factors[-1]
        layer, widths = UPSAMPLING[config.upsampling], [channels, *[width] * len(factors)]
        self.upscale = nn.Sequential(
            *(layer(config.ndim, *pair, upscale_slopes, f) for *pair, f in zip(widths, widths[1:], factors))
        )
        last_conv = conv_behind_nearest(config.ndim, left)
        self.tail = last_conv(width, 1, config.tail_kernel, padding=config.tail_kernel // 2)
        self.texture = (
            NoiseHead(conv, channels, width, config.noise, upscale_slopes, last_conv)
            if config.noise
            else None
        )
        initialize(self, config.init_std)
        if config.icnr:
            for stage in self.upscale:
                stage.repeat_weights()
        if self.texture:
            self.texture.initialize()

    @property
    def tile_overlap(self):
        """LR pixels beyond its own that an output pixel depends on: with so much around them, tiles are
        exact.
        """
        return 1 + 2 * self.config.num_blocks + 1 + self._behind_trunk

    @property
    def upsampling_overlap(self):
        """LR pixels of features, and of LR, beyond its own that an output pixel of `upsampled` depends on."""
        return max(self._behind_trunk, 2 if self.config.input_skip else 0)  # 2: bicubic interpolation

    @property
    def floats_per_pixel(self):
        """Numbers in memory at once per LR pixel: of features, and of `upsampled`, each at most about.

        They are 7 feature maps of the trunk (the long skip, a block's input, a layer's input and output, and
        what convolutions copy), and 5 of the largest behind it: measured in 3-D with oneDNN, 5.2 to 7.0 and
        3.4 to 4.4.
        """
        factors, width = stages_of(self.config.scale), self.config.upscale_filters or self.config.num_filters
        if self.config.upsampling == "nearest_after" and not self.config.noise:
            factors = factors[:-1]  # only the tail, which makes one channel, is on the HR grid
        upsampled, sr = width * math.prod(factors) ** self.config.ndim, self.config.scale**self.config.ndim
        return 7 * self.config.num_filters, 5 * max(upsampled, sr)

    @property
    def _behind_trunk(self):
        behind = NoiseHead.radius if self.config.noise else self.config.tail_kernel // 2
        upsampling = upsampling_radius(self.config.scale, behind, self.config.upsampling)
        return max(upsampling, NoiseHead.lr_radius if self.config.noise else 0)

    def forward(self, lr, *noise):
        return self.upsampled(self.features(lr), lr, *noise)

    def features(self, lr):
        """Return what the trunk makes of lr: features [B, num_filters, *shape]."""
        x = self.head(lr)
        features = self.trunk(self.blocks(x))
        return features + x if self.config.long_skip else features

    def upsampled(self, features, lr, *noise):
        """Return sr of a part of an image from the features, the LR and the noise of that part."""
        upscaled = self.upscale(features)
        sr = self.tail(upscaled)
        if noise:
            sr = sr + self.texture(upscaled, features, *noise)
        if self.config.input_skip:
            mode = {2: "bicubic", 3: "trilinear"}[self.config.ndim]
            sr = sr + F.interpolate(lr, scale_factor=self.config.scale, mode=mode)
        return torch.tanh(sr) if self.config.tanh else sr
