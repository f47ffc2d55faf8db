"""Phases of tiny networks, as the tests of phases build them."""

import copy
from types import SimpleNamespace

import torch

from srgan_dist.losses import VGGLossConfig
from srgan_dist.losses.pixel import L1LossConfig
from srgan_dist.models.discriminator import DenseDiscriminatorConfig, Discriminator
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.phases.adversarial import AdversarialConfig, AdversarialPhase
from srgan_dist.phases.pretrain import PretrainConfig, PretrainPhase

L1 = L1LossConfig(name="l1")
STANDSTILL = 1e-30  # a learning rate that changes no weight
VGG = VGGLossConfig(name="vgg19", weights="random", layer="relu2_2", weight=1.0)


def networks():
    torch.manual_seed(3)
    generator = SRResNet(SRResNetConfig(num_blocks=1, num_filters=8, tanh=False, init_std=None))
    return generator, Discriminator(DenseDiscriminatorConfig(num_filters=4, num_dense=16, init_std=None), 32)


def as_prepared(generator, discriminator=None):
    return SimpleNamespace(
        generator=generator, discriminator=discriminator, compiled=False, channels_last=False, scale=4, seed=0
    )


def adversarial(accelerator, losses, dtype=torch.float32, **settings):
    generator, discriminator = (network.to(dtype) for network in networks())
    config = AdversarialConfig(steps=10, losses=losses, **settings)
    phase = AdversarialPhase(config, as_prepared(generator, discriminator), accelerator)
    for loss in phase.losses.values():
        loss.to(dtype)
    return phase


def pretrain(accelerator, generator=None, **settings):
    config = PretrainConfig(**{"losses": {"pixel": L1}} | settings)
    return PretrainPhase(config, as_prepared(generator or networks()[0]), accelerator)


def snapshot(module):
    return copy.deepcopy(module.state_dict())


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
