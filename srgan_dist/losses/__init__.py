"""Losses. A new one is a module here (settings, forward(sr, hr) -> scalar) and its line in `LOSSES`; it
is built from (config, scale). One that draws has begin(seed, update) too, which is called before each update.
"""

from srgan_dist.losses.consistency import ConsistencyLoss, ConsistencyLossConfig
from srgan_dist.losses.covariance import CovarianceLoss, CovarianceLossConfig
from srgan_dist.losses.perceptual import VGGLoss, VGGLossConfig
from srgan_dist.losses.pixel import L1Loss, L1LossConfig, MSELoss, MSELossConfig
from srgan_dist.losses.stationarity import StationarityLoss, StationarityLossConfig
from srgan_dist.utils.settings import one_of

LOSSES = {
    ConsistencyLossConfig: ConsistencyLoss,
    CovarianceLossConfig: CovarianceLoss,
    L1LossConfig: L1Loss,
    MSELossConfig: MSELoss,
    StationarityLossConfig: StationarityLoss,
    VGGLossConfig: VGGLoss,
}

LossConfig = one_of(LOSSES)


def build_loss(config, scale):
    """Build the loss that belongs to its settings, for images that were enlarged by `scale`."""
    return LOSSES[type(config)](config, scale)
