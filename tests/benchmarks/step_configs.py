"""A tiny config for the benchmarks of one update."""

from conftest import tiny_config

VGG = {"name": "vgg19", "weights": "torchvision", "layer": "relu2_2", "weight": 1.0}


def step_config(**changes):
    phase = {
        "learning_rate": 1e-3,
        "adversarial_weight": 0.5,
        "losses": {"pixel": {"name": "l1"}, "perceptual": VGG},
    }
    return tiny_config("unused", "unused", **{"adversarial": phase} | changes)
