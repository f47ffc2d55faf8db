"""Pixel losses: differences of grey levels."""

from typing import Literal

from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.utils.settings import Settings


class L1LossConfig(Settings):
    """Mean absolute difference, the pixel loss of the paper."""

    name: Literal["l1"]
    weight: float = Field(1.0, gt=0, description="factor in the sum of losses")


class L1Loss(nn.Module):
    """Mean absolute difference of sr and hr, of any one shape, in [-1, 1]."""

    def __init__(self, config, scale):
        super().__init__()

    def forward(self, sr, hr):
        return F.l1_loss(sr, hr)


class MSELossConfig(Settings):
    """Mean squared difference, which maximises PSNR directly."""

    name: Literal["mse"]
    weight: float = Field(1.0, gt=0, description="factor in the sum of losses")


class MSELoss(nn.Module):
    """Mean squared difference of sr and hr, of any one shape, in [-1, 1]."""

    def __init__(self, config, scale):
        super().__init__()

    def forward(self, sr, hr):
        return F.mse_loss(sr, hr)
