"""Contrast and brightness that differ from crop to crop, of LR and HR alike, so that a network does not learn
the grey levels of its rocks: on rocks that it has never seen it then gains more.

What a crop gets is a pure function of the seed and the number of its slot, as its corner is.
"""

from pydantic import Field

from srgan_dist.data.degrade import drawn, range_of
from srgan_dist.data.noise import seeds_of
from srgan_dist.utils.settings import Settings

STREAM = 0x2545F4914F6CDD1D  # apart from the degradation and the noise of a slot


class JitterConfig(Settings):
    """Ranges from which the jitter of each crop is drawn, evenly."""

    contrast: range_of(0.1, 10) = Field(
        [1.0, 1.0],
        description="[least, most] of the factor of the grey levels, about the middle of their range",
    )
    brightness: range_of(-1, 1) = Field(
        [0.0, 0.0], description="[least, most] of what is added then, as a share of the range of grey levels"
    )


def jitter_crops(images, seed, slots, config):
    """Jitter the crops of some slots in place, each by its own draw: float32 [B, 1, *shape] around the middle
    of the range, 0, in [-1, 1]. Nothing is clipped: a crop may leave the range.

    images: several such tensors, which get the same. slots: [B] int64 on their device. config: JitterConfig.
    """
    seeds = seeds_of(seed ^ STREAM, slots)
    contrast, brightness = (
        drawn(seeds, number, bounds).view(-1, *[1] * (images[0].dim() - 1))
        for number, bounds in enumerate((config.contrast, config.brightness))
    )
    for image in images:
        image.mul_(contrast).add_(2 * brightness)
