"""A discriminator of patches: fully convolutional, so that it fits crops of any size and judges texture, not
the whole crop.

Isola et al. (2017), "Image-to-image translation with conditional adversarial networks", appendix 6.1.2 (the
70 x 70 PatchGAN); spectral normalisation by Miyato et al. (2018), "Spectral normalization for generative
adversarial networks".
"""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from srgan_dist.models.layers import BATCH_NORM, CONV, checked_side, count_batch, initialize
from srgan_dist.utils.settings import Settings

_KERNEL = 4


class PatchDiscriminatorConfig(Settings):
    """Settings of the patch discriminator; the defaults are those of its paper."""

    name: Literal["patch"]
    num_filters: int = Field(
        64, ge=1, le=1024, description="channels of the first convolution; doubled up to 8 times"
    )
    num_layers: int = Field(3, ge=1, le=6, description="convolutions that halve the image")
    norm: Literal["batch", "spectral"] = Field(
        "batch", description="batch normalisation of the features, or spectral normalisation of the weights"
    )
    sync_batchnorm: bool = Field(
        False, description="batch normalisation over the crops of all ranks, not of each rank by itself"
    )
    init_std: float | None = Field(
        0.02, gt=0, description="standard deviation of the initial weights, biases 0; null: PyTorch's own"
    )

    @model_validator(mode="after")
    def _check_norm(self):
        if self.norm == "spectral" and self.sync_batchnorm:
            raise ValueError("norm=spectral leaves nothing to sync_batchnorm=true; use one of them")
        return self

    def final_side(self, crop):
        """Return the side of the map of logits for an HR crop of `crop` pixels a side.

        Raises ValueError with the smallest crop that works when nothing is left of it.
        """
        return checked_side(self._final_side, crop, f"num_layers={self.num_layers}")

    def _final_side(self, side):
        for stride in self.strides:
            side = (side + 2 - _KERNEL) // stride + 1
        return side

    @property
    def strides(self):
        return [2] * self.num_layers + [1, 1]


class PatchDiscriminator(nn.Module):
    """Critic of patches of HR crops: image [B, 1, *shape] in [-1, 1] -> logits [B, 1, *map], positive for
    "real".

    Of several batches it returns the logits of each; batch normalisation takes statistics of each by itself.
    """

    def __init__(self, config, crop, ndim=2):
        super().__init__()
        config.final_side(crop)
        self.config = config
        widths = [1, *(config.num_filters * min(2**number, 8) for number in range(config.num_layers + 1)), 1]
        layers = []
        for number, (channels, width, stride) in enumerate(
            zip(widths[:-1], widths[1:], config.strides, strict=True)
        ):
            layers.append(CONV[ndim](channels, width, _KERNEL, stride, padding=1))
            inner = 0 < number < config.num_layers + 1
            layers += [BATCH_NORM[ndim](width)] if inner and config.norm == "batch" else []
            layers += [nn.LeakyReLU(0.2)] if number <= config.num_layers else []
        self.layers = nn.Sequential(*layers)
        initialize(self, config.init_std)
        if config.norm == "spectral":
            for layer in self.layers:
                if isinstance(layer, CONV[ndim]):
                    spectral_norm(layer)

    def forward(self, *images):
        logits = [self._logits(image) for image in images]
        return logits[0] if len(images) == 1 else logits

    def _logits(self, image):
        if self.training:
            count_batch(self.layers)
        return self.layers(image)
