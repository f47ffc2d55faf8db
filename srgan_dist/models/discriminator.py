"""The discriminator of SRGAN: eight convolutions that halve the image four times, and two dense layers.

Ledig et al. (2017), figure 4. It returns logits; the losses never see a rounded probability.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from srgan_dist.models.batch_norm import BatchNorm2d, count_batch
from srgan_dist.utils.settings import Settings

_KERNEL = 3


class DiscriminatorConfig(Settings):
    """Settings of the discriminator; the defaults are those of the paper's official code."""

    name: Literal["discriminator"] = "discriminator"
    num_filters: int = Field(
        64, ge=1, le=1024, description="channels of the first convolution; the last has eight times as many"
    )
    num_dense: int = Field(1024, ge=1, le=65536, description="width of the first dense layer")
    padding: Literal[0, 1] = Field(1, description="zeros around each convolution's input (the report has 0)")
    sync_batchnorm: bool = Field(
        False, description="batch normalisation over the crops of all ranks, not of each rank by itself"
    )
    init_std: float | None = Field(
        0.02,
        gt=0,
        description="standard deviation of the weights at the start, biases 0; null: PyTorch's own",
    )


class DiscriminatorBlock(nn.Module):
    """conv3 - batch norm - LeakyReLU."""

    def __init__(self, channels_in, channels_out, stride, padding):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, _KERNEL, stride, padding)
        self.norm = BatchNorm2d(channels_out)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class Discriminator(nn.Module):
    """Critic of HR crops: image [B, 1, crop, crop] in [-1, 1] -> logits [B, 1], positive for "real".

    Of several batches it returns the logits of each. Batch normalisation takes statistics of each batch by itself; the dense
    layers, whose weights are most of the network, take all together, so that these are read once and have one gradient.
    crop: side of the HR crops in pixels, which fixes the size of the first dense layer.
    """

    def __init__(self, config, crop):
        super().__init__()
        self.config = config
        n = config.num_filters
        ladder = [
            (n, n, 2),
            (n, 2 * n, 1),
            (2 * n, 2 * n, 2),
            (2 * n, 4 * n, 1),
            (4 * n, 4 * n, 2),
            (4 * n, 8 * n, 1),
            (8 * n, 8 * n, 2),
        ]
        side = final_side(crop, config.padding)
        self.conv = nn.Conv2d(1, n, _KERNEL, 1, config.padding)
        self.activation = nn.LeakyReLU(0.2)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(*step, config.padding) for step in ladder))
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(8 * n * side * side, config.num_dense)
        self.dense_activation = nn.LeakyReLU(0.2)
        self.dense2 = nn.Linear(config.num_dense, 1)
        self.sigmoid = nn.Sigmoid()
        if config.init_std is not None:
            self.apply(self._initialise)

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

    def _initialise(self, module):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=self.config.init_std)
            nn.init.zeros_(module.bias)


def final_side(crop, padding):
    """Return the side of the last feature map for a crop of `crop` pixels.

    Raises ValueError with the smallest crop that works when nothing is left of it.
    """
    side = _final_side(crop, padding)
    if side < 1:
        smallest = next(c for c in range(1, 1000) if _final_side(c, padding) >= 1)
        raise ValueError(
            f"an HR crop of {crop} pixels vanishes in the discriminator's strides"
            f" (padding={padding}); use {smallest} or more"
        )
    return side


def _final_side(side, padding):
    for stride in (1, 2, 1, 2, 1, 2, 1, 2):
        side = (side + 2 * padding - _KERNEL) // stride + 1
        if side < 1:
            return 0
    return side
