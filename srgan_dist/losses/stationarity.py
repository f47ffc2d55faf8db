"""The stationarity loss: fine detail of SR must not know where the pixels of LR lie."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from srgan_dist.utils.settings import Settings
from srgan_dist.utils.stationarity import phase_moments

MEANS_WEIGHT = (
    100  # a mean that depends on the phase is one sharp line of the spectrum, seen at a tenth of the texture
)
SMALLEST_LR_CROP = 4  # pixels along each axis, of which the middle ones have a part
BINOMIAL = (1, 4, 6, 4, 1)  # of the blur that separates fine detail; its sum is 16


class StationarityLossConfig(Settings):
    """Variance over sub-pixel phases of the statistics of SR's fine detail; against a lattice."""

    name: Literal["stationarity"]
    weight: float = Field(1.0, gt=0, description="factor in the sum of losses")


class StationarityLoss(nn.Module):
    """How much the mean and the covariances of SR's fine detail differ between the scale^n sub-pixel phases.

    A rock does not know where the pixels of LR lie, so its statistics are the same at every phase; those of
    an image with a pattern of the upsampling are not (it is cyclostationary: Gardner, Napolitano, Paura 2006,
    "Cyclostationarity: half a century of research"). Of hr only the variance of its fine detail is used, as
    the unit.
    """

    def __init__(self, config, scale):
        super().__init__()
        self.scale = scale

    def forward(self, sr, hr):
        """sr, hr: [B, 1, *shape] in [-1, 1], of which every axis begins with an LR pixel -> 0-d float32."""
        detail = fine_detail(sr.float()).squeeze(1)
        with torch.no_grad():
            unit = fine_detail(hr.float()).square().mean().clamp(min=1e-6)
        means, covariances = phase_moments(detail, self.scale, halves=True)
        of_covariances = variance_over_phases(covariances.flatten(2)).sum() / unit**2
        return MEANS_WEIGHT * variance_over_phases(means) / unit + of_covariances


def variance_over_phases(moments):
    """Return the variance over the last axis of moments [2, ..., phases], estimated by the product of the
    deviations in both halves: chance deviates in each by itself, so that noise costs nothing on average.
    It may be below 0.
    """
    one, other = moments - moments.mean(-1, keepdim=True)
    return (one * other).mean(-1)


def fine_detail(images):
    """Return images [B, 1, *shape] minus their binomial blur of five pixels along each axis."""
    blurred = F.pad(images, [2, 2] * (images.dim() - 2), mode="replicate")
    for axis in range(2, images.dim()):
        length = images.shape[axis]
        blurred = sum(weight / 16 * blurred.narrow(axis, k, length) for k, weight in enumerate(BINOMIAL))
    return images - blurred
