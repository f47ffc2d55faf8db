"""Networks. A new generator is a module here and a member of `GeneratorConfig`."""

from srgan_dist.models.srresnet import SRResNet, SRResNetConfig

# With a second one: Annotated[SRResNetConfig | YourConfig, Field(discriminator="name")]
GeneratorConfig = SRResNetConfig

GENERATORS = {SRResNetConfig: SRResNet}


def build_generator(config):
    """Build the generator that belongs to its settings."""
    return GENERATORS[type(config)](config)
