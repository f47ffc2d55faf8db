"""Losses. A new one is a module here (settings, forward(sr, hr) -> scalar) and its line in `LOSSES`."""

from srgan_dist.losses.perceptual import VGGLoss, VGGLossConfig
from srgan_dist.losses.pixel import L1Loss, L1LossConfig, MSELoss, MSELossConfig
from srgan_dist.utils.settings import one_of

LOSSES = {
    L1LossConfig: L1Loss,
    MSELossConfig: MSELoss,
    VGGLossConfig: VGGLoss,
}

LossConfig = one_of(LOSSES)


def build_loss(config):
    """Build the loss that belongs to its settings."""
    return LOSSES[type(config)](config)
