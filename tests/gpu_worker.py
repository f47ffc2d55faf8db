"""What tests of a GPU do in a process of its own: python gpu_worker.py TASK CONFIG OUT"""

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

import torch
from accelerators import accelerator_on
from distributed_worker import digest, sending

from srgan_dist.config import load_config
from srgan_dist.phases import build_phase
from srgan_dist.phases.adversarial import AdversarialPhase
from srgan_dist.phases.pretrain import PretrainPhase
from srgan_dist.run.training_run import build_networks
from srgan_dist.training import train
from srgan_dist.utils.errors import TrainingStopped


def resume(config, out, device):
    """Train in one go, and stopped in each phase; returns the digests of both."""
    torch.use_deterministic_algorithms(True)

    def digests(trained):
        return digest(trained.generator.cpu()), digest(trained.discriminator.cpu())

    whole = digests(train(config.model_copy(update={"name": "whole", "device": device})))
    stopped = config.model_copy(update={"name": "stopped", "device": device})
    for phase, at in ((PretrainPhase, 3), (AdversarialPhase, 2)):
        with (
            mock.patch.object(phase, "update", sending(phase.update, 15, at)),
            contextlib.suppress(TrainingStopped),
        ):
            train(stopped)
            raise AssertionError("it was not stopped")
    return {"whole": whole, "stopped": digests(train(stopped))}


def updates(config, out, device):
    """Take three updates of phase 2 in float32 as one rank of a group that is there already; returns the
    weights.
    """
    torch.backends.cudnn.allow_tf32 = False
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    accelerator = accelerator_on(device, ranks=ranks)
    networks = build_networks(config, accelerator)
    phase = build_phase(config.adversarial, networks, accelerator)
    for update in range(3):
        generator = torch.Generator().manual_seed(update)
        crops = [
            (torch.rand(4, 1, side, side, generator=generator) * 2 - 1).chunk(ranks)[rank].to(device)
            for side in (config.data.lr_crop, config.hr_crop)
        ]
        phase.update([crops])
    return {
        f"{name}.{key}": value.cpu()
        for name, network in networks.initialized.items()
        for key, value in network.state_dict().items()
    }


def in_group(config, out, device):
    """Take updates in the group that BACKEND names, of all launched ranks, all of them on one device."""
    torch.distributed.init_process_group(os.environ["BACKEND"])
    found = updates(config, out, device)
    torch.distributed.destroy_process_group()
    return found


TASKS = {"resume": resume, "group": in_group}

if __name__ == "__main__":
    task, config, out, device = sys.argv[1:]
    found = TASKS[task](load_config(config), Path(out), device)
    torch.save(found, Path(out) / f"{task}{os.environ.get('RANK', 0)}.pt")
