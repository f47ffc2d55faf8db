"""The covariance loss: SR has the grain of HR, block by block, wherever each grain of it lies."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from srgan_dist.losses.stationarity import fine_detail
from srgan_dist.utils.blocks import block_means
from srgan_dist.utils.settings import Settings
from srgan_dist.utils.stationarity import offsets_of

WIDTH = 7  # pixels of the blur that separates detail: with 5 coal keeps a pattern, with 9 it gets less grain
QUIET = 1e-6  # of the variance of fine detail in [-1, 1], 0.13 grey levels of 255: less is no texture


class CovarianceLossConfig(Settings):
    """Difference of the local covariances of fine detail, the texture of a scanner's noise and of rock."""

    name: Literal["covariance"]
    weight: float = Field(0.05, gt=0, description="factor in the sum of losses")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the variance of HR's fine detail that is asked for at least; all of it at most."
        " Less than 1 where rocks of less grain than the training set's are to be super-resolved",
    )
    share_of: Literal["variance", "each"] = Field(
        "variance",
        description="what may be less than HR's: the variance, for which all other statistics are HR's; or"
        " each statistic by itself, which leaves the colour of grain open",
    )
    block: int = Field(
        24, ge=8, le=1024, description="side in HR pixels of the blocks, each of which is compared"
    )


class CovarianceLoss(nn.Module):
    """Compares the statistics of the fine detail x of sr and hr in blocks: the covariances at small
    offsets, and E|x| and E[x|x|], which tell grain from strokes and dark strokes from bright ones. A block
    may have as much fine detail as it has, from `share` of HR's variance to all of it; with that amount
    every other statistic has to be HR's, so that less grain is fainter, not whiter (share_of=each: every
    statistic has such a range of its own). Differences are over the mean strength of both, which is
    bounded, so that no quiet block outweighs all others; squared and summed.

    Statistics of texture as Portilla & Simoncelli (2000), "A parametric texture model based on joint
    statistics of complex wavelet coefficients", match them, here of the pixels themselves. Detail that no
    LR image tells is asked for in its amount and its shape, not pixel by pixel.
    """

    def __init__(self, config, scale):
        super().__init__()
        self.block, self.share, self.share_of = config.block, config.share, config.share_of

    def forward(self, sr, hr):
        """sr, hr: [B, 1, *shape] in [-1, 1] -> 0-d float32."""
        of_sr = self._statistics(sr.float())
        with torch.no_grad():
            wanted = self._wanted(of_sr, self._statistics(hr.float()))
        variances = (of_sr[0] + wanted[0] + QUIET) / 2
        sizes = ((of_sr[0] + QUIET).sqrt() + (wanted[0] + QUIET).sqrt()) / 2
        units = torch.stack([variances] * (len(of_sr) - 2) + [sizes, variances])
        return ((of_sr - wanted) / units).square().sum(0).mean()

    def _wanted(self, of_sr, of_hr):
        """Return the statistics that SR may have nearest to those that it has."""
        if self.share_of == "each":
            least = fainter(of_hr, self.share)
            return of_sr.clamp(torch.minimum(least, of_hr), torch.maximum(least, of_hr))
        return fainter(of_hr, (of_sr[0] / (of_hr[0] + QUIET)).clamp(self.share, 1))

    def _statistics(self, images):
        """Return the statistics of fine detail in blocks: [offsets + 2, B, blocks]; the first is the
        variance.
        """
        detail = fine_detail(images, WIDTH).squeeze(1)
        products = [detail * moved(detail, offset) for offset in offsets_of(images.dim() - 2)]
        size = detail.abs()
        return torch.stack([block_means(values, self.block) for values in (*products, size, detail * size)])


def fainter(statistics, share):
    """Return what statistics become where fine detail keeps its shape and `share` of its variance."""
    result = share * statistics
    result[-2] = share**0.5 * statistics[-2]  # E|x|
    return result


def moved(values, offset):
    """Return values [B, *shape] moved by an offset along each axis, around the borders."""
    return values.roll([-step for step in offset], list(range(1, values.dim())))
