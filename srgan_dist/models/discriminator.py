"""The discriminator of SRGAN: eight convolutions that halve the image four times, and two dense layers.

Ledig et al. (2017), figure 4. It returns logits; the losses never see a rounded probability.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from srgan_dist.models.layers import BATCH_NORM, CONV, checked_side, count_batch, initialize
from srgan_dist.utils.settings import Settings

_KERNEL = 3
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
MOST_DENSE_WEIGHTS = 150_000_000  # of volumes; with their gradients and Adam's averages 2.4 GB


class DenseDiscriminatorConfig(Settings):
    """Settings of the discriminator with dense layers; the defaults are the official code's."""

    name: Literal["dense"] = "dense"
    num_filters: int = Field(
        64, ge=1, le=1024, description="channels of the first convolution; the last has eight times as many"
    )
    num_dense: int = Field(1024, ge=1, le=65536, description="width of the first dense layer")
    leaky_slope: float = Field(
        0.2, ge=0, lt=1, description="slope of LeakyReLU below zero (official code for volumes: 0.3)"
    )
    padding: Literal[0, 1] = Field(1, description="zeros around each convolution's input (the report has 0)")
    sync_batchnorm: bool = Field(
        False, description="batch normalisation over the crops of all ranks, not of each rank by itself"
    )
    init_std: float | None = Field(
        0.02, gt=0, description="standard deviation of the initial weights, biases 0; null: PyTorch's own"
    )

    def final_side(self, crop):
        """Return the side of the last feature map for an HR crop of `crop` pixels a side.

        Raises ValueError with the smallest crop that works when nothing is left of it.
        """
        return checked_side(self._final_side, crop, f"padding={self.padding}")

    def check_size(self, crop, ndim):
        """Raise ValueError where the first dense layer for volumes of `crop` voxels a side is out of all
        proportion.
        """
        weights = 8 * self.num_filters * self.final_side(crop) ** ndim * self.num_dense
        if ndim == 3 and weights > MOST_DENSE_WEIGHTS:
            raise ValueError(
                f"discriminator.name=dense has {weights / 1e6:,.1f} million weights in its first dense layer"
                f" for HR crops of {crop} voxels a side, more than {MOST_DENSE_WEIGHTS / 1e6:,.0f} million;"
                " use discriminator.name=patch, smaller crops, or smaller num_filters or num_dense"
            )

    def _final_side(self, side):
        for stride in _STRIDES:
            side = (side + 2 * self.padding - _KERNEL) // stride + 1
            if side < 1:
                return 0
        return side


class DiscriminatorBlock(nn.Module):
    """conv3 - batch norm - LeakyReLU."""

    def __init__(self, ndim, channels_in, channels_out, stride, padding, leaky_slope=0.2):
        super().__init__()
        self.conv = CONV[ndim](channels_in, channels_out, _KERNEL, stride, padding)
        self.norm = BATCH_NORM[ndim](channels_out)
        self.activation = nn.LeakyReLU(leaky_slope)

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class Discriminator(nn.Module):
    """Critic of HR crops: image [B, 1, crop, crop, ...] in [-1, 1] -> logits [B, 1], positive for "real".

    Of several batches it returns the logits of each. Batch normalisation takes statistics of each batch by
    itself; the dense layers, whose weights are most of the network, take all together, so that these are read
    once and have one gradient. crop: side of the HR crops in pixels, which fixes the size of the first dense
    layer.
    """

    def __init__(self, config, crop, ndim=2):
        super().__init__()
        self.config = config
        n = config.num_filters
        widths = [n, n, 2 * n, 2 * n, 4 * n, 4 * n, 8 * n, 8 * n]
        blocks = zip(widths[:-1], widths[1:], _STRIDES[1:], strict=True)
        side = config.final_side(crop)
        self.conv = CONV[ndim](1, n, _KERNEL, _STRIDES[0], config.padding)
        self.activation = nn.LeakyReLU(config.leaky_slope)
        self.blocks = nn.Sequential(
            *(DiscriminatorBlock(ndim, *block, config.padding, config.leaky_slope) for block in blocks)
        )
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(8 * n * side**ndim, config.num_dense)
        self.dense_activation = nn.LeakyReLU(config.leaky_slope)
        self.dense2 = nn.Linear(config.num_dense, 1)
        self.sigmoid = nn.Sigmoid()
        initialize(self, config.init_std)

    def forward(self, *images):
        features = [self._features(image) for image in images]
        logits = self.dense2(self.dense_activation(self.dense1(torch.cat(features))))
        return logits if len(images) == 1 else logits.split([len(image) for image in images])

    def _features(self, image):
        if self.training:
            count_batch(self.blocks)
        return self.flatten(self.blocks(self.activation(self.conv(image))))

    def probabilities(self, image):
        """Return the probability [B, 1] that each image is real; for people, the losses take logits."""
        return self.sigmoid(self(image))
