"""Losses. A new one is a module here with forward(sr, hr) -> scalar, a member of `LossConfig` and a line in
`LOSSES`.
"""

from typing import Annotated

from pydantic import Field

from srgan_dist.losses.perceptual import VGGLoss, VGGLossConfig
from srgan_dist.losses.pixel import L1Loss, L1LossConfig, MSELoss, MSELossConfig

LossConfig = Annotated[L1LossConfig | MSELossConfig | VGGLossConfig, Field(discriminator="name")]

LOSSES = {L1LossConfig: L1Loss, MSELossConfig: MSELoss, VGGLossConfig: VGGLoss}


def build_loss(config):
    """Build the loss that belongs to its settings."""
    return LOSSES[type(config)](config)
