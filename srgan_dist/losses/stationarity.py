"""The stationarity loss: fine detail of SR must not know where the pixels of LR lie."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.utils.filters import filter_axes
from srgan_dist.utils.settings import Settings
from srgan_dist.utils.stationarity import phase_moments

MEANS_WEIGHT = (
    100  # a mean that depends on the phase is one sharp line of the spectrum, seen at a tenth of the texture
)
SMALLEST_LR_CROP = 4  # pixels along each axis, of which the middle ones have a part
FEW = 4  # images of a batch
FAINTEST = 0.03  # of the mean power of fine detail in a batch: air has less than any rock, and counts as that
SILENT = 1e-6  # power of fine detail: a batch with less is air of one grey level, no rock of 12 bits in 16
GREY_LEVEL = 2 / 255  # of 8 bits: such a batch counts as if its fine detail had that much
WIDTH = 9  # pixels of the blur that separates detail, wider than grain: a pattern of LR pixels is wide


class StationarityLossConfig(Settings):
    """Variance over sub-pixel phases of the statistics of SR's fine detail; against a lattice."""

    name: Literal["stationarity"]
    weight: float = Field(0.6, gt=0, description="factor in the sum of losses")


class StationarityLoss(nn.Module):
    """How much the mean and the covariances of SR's fine detail differ between the scale^n sub-pixel phases.

    A rock does not know where the pixels of LR lie, so its statistics are the same at every phase; those of
    an image with a pattern of the upsampling are not (it is cyclostationary: Gardner, Napolitano, Paura 2006,
    "Cyclostationarity: half a century of research"). Of hr only the variance of each image's fine detail is
    used, as its unit: a faint rock weighs as much as one of strong contrast, as in `phase_dependence`; air
    has a least one.
    """

    def __init__(self, config, scale):
        super().__init__()
        self.scale = scale

    def forward(self, sr, hr):
        """sr, hr: [B, 1, *shape] in [-1, 1], of which every axis begins with an LR pixel -> 0-d float32."""
        with torch.no_grad():
            power = fine_detail(hr.float(), WIDTH).square().flatten(1).mean(1)
            least = torch.where(power.mean() < SILENT, GREY_LEVEL**2, SILENT)
            unit = power.maximum(FAINTEST * power.mean()).maximum(least).sqrt()
        detail = fine_detail(sr.float(), WIDTH).squeeze(1) / unit.view(-1, *[1] * (sr.dim() - 2))
        means, covariances = phase_moments(detail, self.scale, halves=True)
        loss = MEANS_WEIGHT * variance_over_phases(means) + variance_over_phases(covariances.flatten(2)).sum()
        # Between few images a network gains by opposite patterns that are as strong as each image's contrast
        return loss.clamp(min=0) if len(sr) < FEW else loss


def variance_over_phases(moments):
    """Return the variance over the last axis of moments [2, ..., phases], estimated by the product of the
    deviations in both halves: chance deviates in each by itself, so that noise costs nothing on average.
    It may be below 0 by chance.
    """
    one, other = moments - moments.mean(-1, keepdim=True)
    return (one * other).mean(-1)


def fine_detail(images, width):
    """Return images [B, 1, *shape] minus their binomial blur of `width` pixels (odd) along each axis."""
    wide = F.pad(images, [width // 2] * 2 * (images.dim() - 2), mode="replicate")
    weights = [math.comb(width - 1, k) / 2 ** (width - 1) for k in range(width)]
    return images - filter_axes(wide, weights, first=2)
