"""A generator whose output does not depend on how a rock lies in the image."""

import itertools

from torch import nn


class SelfEnsemble(nn.Module):
    """The mean of a generator's output over orientations of LR, turned back: all 8 of an image, the 8
    mirrored ones of a volume. Lim et al. 2017, "Enhanced deep residual networks for single image
    super-resolution", section 3.3.

    It is called as the generator is, and takes 8 times the work. The noise is turned with LR, so that grain
    stays as strong as it was.
    """

    def __init__(self, generator):
        super().__init__()
        self.generator = generator
        self.config, self.tile_overlap = generator.config, generator.tile_overlap
        axes = range(2, 2 + self.config.ndim)
        flips = itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(axes) + 1))
        swaps = (False, True) if self.config.ndim == 2 else (False,)
        self.orientations = list(itertools.product(flips, swaps))

    @property
    def texture(self):
        return getattr(self.generator, "texture", None)

    def forward(self, *images):
        total = 0
        for flips, swap in self.orientations:
            turned = (image.flip(flips) for image in images)
            sr = self.generator(*(image.transpose(2, 3) if swap else image for image in turned))
            total = total + (sr.transpose(2, 3) if swap else sr).flip(flips)
        return total / len(self.orientations)
