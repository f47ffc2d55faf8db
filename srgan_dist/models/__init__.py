"""Networks. A new one is a module here with its settings, and its line in one of the two tables.

A generator has `config` (with `ndim` and `scale`), `tile_overlap` (LR pixels) and forward(lr) -> sr; one
whose settings have `noise` above 0 is called as forward(lr, noise), see `data/noise.py`; without noise where
it has a `texture` that `adds_nothing` yet. A discriminator is built from (config, crop, ndim), its settings
have `final_side(crop)`, and forward(*images) returns the logits of each batch.
"""

from srgan_dist.models.discriminator import DenseDiscriminatorConfig, Discriminator
from srgan_dist.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from srgan_dist.models.rrdb import RRDBConfig, RRDBNet
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.utils.settings import one_of

GENERATORS = {
    SRResNetConfig: SRResNet,
    RRDBConfig: RRDBNet,
}
DISCRIMINATORS = {
    DenseDiscriminatorConfig: Discriminator,
    PatchDiscriminatorConfig: PatchDiscriminator,
}

GeneratorConfig = one_of(GENERATORS, default="srresnet")
DiscriminatorConfig = one_of(DISCRIMINATORS, default="dense")


def build_generator(config):
    """Build the generator of some settings."""
    return GENERATORS[type(config)](config)


def noise_channels(config):
    """Return the channels of noise with which a generator of some settings is called; 0: with lr alone."""
    return getattr(config, "noise", 0)


def makes_grain(generator):
    """Return whether a generator's output depends on noise: not before a phase has trained its texture."""
    texture = getattr(generator, "texture", None)
    return noise_channels(generator.config) > 0 and not getattr(texture, "adds_nothing", False)


def build_discriminator(config, crop, ndim):
    """Build the discriminator of some settings for HR crops of `crop` pixels a side in `ndim` dimensions."""
    return DISCRIMINATORS[type(config)](config, crop, ndim)
