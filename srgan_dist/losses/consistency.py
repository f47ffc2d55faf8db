"""The consistency loss: averaged over the pixels of LR, SR is what HR is."""

from typing import Literal

from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.utils.settings import Settings

AVERAGE_POOL = {4: F.avg_pool2d, 5: F.avg_pool3d}  # by the number of axes of a batch


class ConsistencyLossConfig(Settings):
    """Mean absolute difference of the averages over LR pixels; keeps grey levels and shapes."""

    name: Literal["consistency"]
    weight: float = Field(1.0, gt=0, description="factor in the sum of losses")


class ConsistencyLoss(nn.Module):
    """The L1 loss of sr and hr after both are averaged over the scale^n pixels of each LR pixel.

    A texture of fine grain costs next to nothing here, a shift of grey levels, a halo or a blob much: what LR
    tells has to stay (the consistency of Bahat & Michaeli 2020, "Explorable super resolution", as a loss).
    """

    def __init__(self, config, scale):
        super().__init__()
        self.scale = scale

    def forward(self, sr, hr):
        """sr, hr: [B, 1, *shape] in [-1, 1], of which every axis begins with an LR pixel -> 0-d float32."""
        average = AVERAGE_POOL[sr.dim()]
        return F.l1_loss(average(sr.float(), self.scale), average(hr.float(), self.scale))
