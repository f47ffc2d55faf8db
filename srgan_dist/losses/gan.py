"""The game between generator and discriminator, on logits.

Ledig et al. (2017), equation 6, with the discriminator's binary cross entropy written as softplus: exact and with
a gradient in [-1, 1] for any logit, where sigmoid followed by a logarithm loses both.
"""

import torch
from torch.nn import functional as F


def discriminator_loss(real, fake):
    """Return BCE(real, 1) + BCE(fake, 0): logits [B, 1] of HR and of SR crops -> scalar, float32 at least."""
    return F.softplus(-_precise(real)).mean() + F.softplus(_precise(fake)).mean()


def adversarial_loss(fake):
    """Return BCE(fake, 1): logits [B, 1] of SR crops -> scalar, float32 at least. Its gradient has to reach the generator."""
    return F.softplus(-_precise(fake)).mean()


def _precise(logits):
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
