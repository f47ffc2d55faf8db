"""One rank of the tests in test_distributed.py: python distributed_worker.py TASK CONFIG OUT, under torchrun or alone."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from srgan_dist.config import load_config
from srgan_dist.data.index import open_split
from srgan_dist.data.loader import TrainLoader
from srgan_dist.errors import reported
from srgan_dist.networks import Networks
from srgan_dist.train import train


def digest(module):
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def train_both_phases(config, out):
    trained = train(config)
    report = {"generator": digest(trained.generator), "discriminator": digest(trained.discriminator)}
    return report, {name: value.clone() for name, value in trained.generator.state_dict().items()}


def read_batches(config, out):
    accelerator = Accelerator()
    loader = TrainLoader(
        [(open_split(config.data.path, "train"), 1.0)], config.data.lr_crop, config.data.batch_size, config.seed,
        config.data.augment, accelerator.process_index, accelerator.num_processes, accelerator.device,
    )
    batches = loader.batches(0)
    hashes = []
    for _ in range(5):
        lr, hr = next(batches)
        hashes.append([hashlib.sha256(a.numpy().tobytes() + b.numpy().tobytes()).hexdigest() for a, b in zip(lr, hr)])
    batches.close()
    accelerator.end_training()
    return {"batches": hashes}, None


def train_with_directories_of_their_own(config, out):
    train(config.model_copy(update={"output": f"{config.output}/rank{os.environ['RANK']}"}))


def share_batch_norm_buffers(config, out):
    accelerator = Accelerator()
    networks = Networks(config, accelerator)
    torch.manual_seed(accelerator.process_index)
    for _ in range(2):
        networks.discriminator(torch.randn(2, 1, config.hr_crop, config.hr_crop))
    own = digest(networks.bare_discriminator)
    networks.share_buffers()
    shared = digest(networks.bare_discriminator)
    networks.unwrap()
    accelerator.end_training()
    return {"own": own, "shared": shared}, None


TASKS = {"train": train_both_phases, "batches": read_batches, "apart": train_with_directories_of_their_own,
         "buffers": share_batch_norm_buffers}

if __name__ == "__main__":
    task, config, out = sys.argv[1:]
    out = Path(out)
    rank = int(os.environ.get("RANK", 0))
    with reported():
        report, tensors = TASKS[task](load_config(config), out)
    (out / f"rank{rank}.json").write_text(json.dumps(report))
    if tensors and rank == 0:
        torch.save(tensors, out / "generator.pt")
