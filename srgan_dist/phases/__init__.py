"""Phases of the training: stretches with an objective of their own, networks and optimisers.

A new one is a module here with its settings and its class, and a line in `PHASES`; a field of `Config` then
names it and gives its place in the order.
"""

from srgan_dist.phases.adversarial import AdversarialConfig, AdversarialPhase
from srgan_dist.phases.pretrain import PretrainConfig, PretrainPhase

PHASES = {
    PretrainConfig: PretrainPhase,
    AdversarialConfig: AdversarialPhase,
}


def build_phase(config, networks, accelerator):
    """Build the phase of some settings; it takes from `networks` those it trains."""
    return PHASES[type(config)](config, networks, accelerator)
