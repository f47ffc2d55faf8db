"""One rank of test_step.py: python step_worker.py OUT NDIM, under torchrun or alone. Takes updates in
float64, of images or of volumes, and writes what became of them.
"""

import os
import sys
from unittest import mock

import torch
import torch.distributed
from accelerate import Accelerator
from accelerators import state_of
from conftest import LR_CROP, SCALE, tiny_config
from torch.nn.parallel import DistributedDataParallel

from srgan_dist.losses.gan import Standard
from srgan_dist.optim import spike_detector
from srgan_dist.phases import build_phase
from srgan_dist.run.training_run import build_networks

NDIM = int(sys.argv[2])
BATCH, UPDATES = 12, 3
VGG = {"name": "vgg19", "weights": "random", "layer": "relu2_2", "weight": 1.0}
PIXEL = {"pixel": {"name": "l1"}}
TWO_LOSSES = PIXEL | {"squares": {"name": "mse"}}
# Of the comparison with the textbook; VGG in float64 takes long
LOSSES = PIXEL | {"perceptual": VGG} if NDIM == 2 else TWO_LOSSES


def config_of(**changes):
    phase = {
        "learning_rate": 1e-3,
        "lr_schedule": {"name": "constant"},
        "adversarial_weight": 0.5,
        "losses": TWO_LOSSES,
    }
    return tiny_config(
        "unused", "unused", NDIM, **{**changes, "adversarial": phase | changes.get("adversarial", {})}
    )


def batches_of(update, rank, world_size, accumulation):
    """Return the micro-batches of a rank: its slots of the global batch of an update, in order."""
    generator = torch.Generator().manual_seed(update)
    lr, hr = (
        torch.rand(BATCH, 1, *[side] * NDIM, generator=generator, dtype=torch.float64) * 2 - 1
        for side in (LR_CROP[NDIM], LR_CROP[NDIM] * SCALE[NDIM])
    )
    own = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    return list(zip(lr[own].chunk(accumulation), hr[own].chunk(accumulation), strict=True))


def prepared(accelerator, config, name, fixed_statistics=False):
    networks = build_networks(config, accelerator)
    networks.generator.double()
    if name == "adversarial":
        networks.discriminator.double().train(not fixed_statistics)
    phase = build_phase(getattr(config, name), networks, accelerator)
    for loss in phase.losses.values():
        loss.double()
    return networks, phase


def trained(accelerator, name, accumulation=1, fixed_statistics=False, config=None):
    """Take some updates; returns what became of the networks, the numbers, and the bytes of every collective
    of each update.
    """
    networks, phase = prepared(accelerator, config or config_of(), name, fixed_statistics)
    numbers, collectives = [], []
    all_reduce = torch.distributed.all_reduce

    def counted(tensor, *arguments, **named):
        collectives[-1].append(tensor.nbytes)
        return all_reduce(tensor, *arguments, **named)

    with mock.patch("torch.distributed.all_reduce", counted):
        for update in range(UPDATES):
            collectives.append([])
            numbers.append(
                phase.update(
                    batches_of(update, accelerator.process_index, accelerator.num_processes, accumulation)
                )
            )
    sizes = [sum(p.nbytes for p in network.parameters()) for network in networks.initialized.values()]
    return {"tensors": state_of(phase), "numbers": numbers, "collectives": collectives, "bytes": sizes}


def plain(accelerator):
    """Take the same updates with DistributedDataParallel around both networks, as a textbook would."""
    config = config_of(adversarial={"losses": LOSSES})
    _, phase = prepared(accelerator, config, "adversarial")
    generator, critic = phase.generator.network, phase.discriminator.network
    parallel = {"broadcast_buffers": False}
    shared_generator, shared_critic = (
        DistributedDataParallel(generator, **parallel),
        DistributedDataParallel(critic, **parallel),
    )
    for update in range(UPDATES):
        ((lr, hr),) = batches_of(update, accelerator.process_index, accelerator.num_processes, 1)
        sr = shared_generator(lr)
        phase.optimizers["discriminator"].zero_grad()
        Standard().discriminator(shared_critic(hr), shared_critic(sr.detach())).backward()
        phase.optimizers["discriminator"].step()
        total = sum(
            config.adversarial.losses[name].weight * loss(sr, hr) for name, loss in phase.losses.items()
        )
        critic.requires_grad_(False)
        total = total + 0.5 * Standard().generator(None, critic(sr))
        phase.optimizers["generator"].zero_grad()
        total.backward()
        critic.requires_grad_(True)
        phase.optimizers["generator"].step()
    return {"tensors": state_of(phase)}


def faulty(accelerator, name, fault, accumulation=1):
    """Take an update, one with a fault on the last rank alone, and one more; returns what became of it after
    each.
    """
    guarded = {"ema_decay": 0.5, "losses": PIXEL, "max_spike": 1e3}
    config = config_of(adversarial=guarded, pretrain={"steps": 6, **guarded})
    _, phase = prepared(accelerator, config, name)
    states, skipped = [], []
    for update in range(3):
        here = update == 1 and accelerator.process_index == accelerator.num_processes - 1
        batches = batches_of(update, accelerator.process_index, accelerator.num_processes, accumulation)
        hooks = [FAULTS[fault](phase, batches)] if here else []
        skipped.append(phase.update(batches)["health/skipped"].item())
        for hook in filter(None, hooks):
            hook.remove()
        states.append(state_of(phase))
    return {"states": states, "skipped": skipped}


def _poison(value):
    return lambda gradient: torch.full_like(gradient, value)


def _magnify(factor):
    return lambda gradient: factor * gradient


def _brighten(phase, batches):
    batches[-1][1].mul_(1e7)


def _explode(phase, batches):
    """Let the discriminator's loss be infinite, where its own gradient is not."""
    return phase.discriminator.network.dense2.register_forward_hook(
        lambda module, inputs, logits: logits - float("inf")
    )


FAULTS = {
    "pixel": lambda phase, batches: batches[-1][1].view(-1)[0].fill_(float("nan")) and None,
    "generator gradient": lambda phase, batches: phase.generator.network.head.weight.register_hook(
        _poison(float("nan"))
    ),
    "infinite generator gradient": lambda phase, batches: phase.generator.network.tail.bias.register_hook(
        _poison(float("inf"))
    ),
    "discriminator gradient": lambda phase, batches: phase.discriminator.network.dense1.weight.register_hook(
        _poison(float("nan"))
    ),
    "discriminator loss": _explode,
    "pixel spike": _brighten,
    "generator gradient spike": lambda phase, batches: phase.generator.network.head.weight.register_hook(
        _magnify(1e7)
    ),
    "discriminator gradient spike": lambda phase, batches: (
        phase.discriminator.network.dense1.weight.register_hook(_magnify(1e7))
    ),
    "discriminator loss spike": lambda phase, batches: (
        phase.discriminator.network.dense2.register_forward_hook(lambda m, i, logits: 1e7 * logits)
    ),
}
PRETRAIN_FAULTS = [name for name in FAULTS if "discriminator" not in name]

if __name__ == "__main__":
    spike_detector.SETTLED = 1  # so that the second update can be one
    accelerator = Accelerator()
    results = {
        "pretrain": [trained(accelerator, "pretrain", k) for k in (1, 2, 3)],
        "adversarial": [trained(accelerator, "adversarial", k, fixed_statistics=True) for k in (1, 2, 3)],
        "own statistics": trained(
            accelerator, "adversarial", config=config_of(adversarial={"losses": LOSSES})
        ),
        "synchronised": trained(
            accelerator,
            "adversarial",
            config=config_of(
                adversarial={"losses": LOSSES},
                discriminator={"num_filters": 4, "num_dense": 16, "init_std": None, "sync_batchnorm": True},
            ),
        ),
        "guarded": {
            name: trained(
                accelerator,
                name,
                2,
                config=config_of(**{name: {"steps": 6, "losses": TWO_LOSSES, "max_spike": 1e6}}),
            )
            for name in ("pretrain", "adversarial")
        },
        "faults": {
            (name, fault, k): faulty(accelerator, name, fault, k)
            for name, faults in (("pretrain", PRETRAIN_FAULTS), ("adversarial", FAULTS))
            for fault in faults
            for k in (1, 2)
            if NDIM == 2 or (k == 2 and "spike" not in fault)
        },
    }
    if accelerator.num_processes > 1:
        results["plain"] = plain(accelerator)
    torch.save(results, f"{sys.argv[1]}/rank{os.environ.get('RANK', 0)}.pt")
    accelerator.end_training()
