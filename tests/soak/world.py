"""What the trainings of the soak share: a set whose images tell their numbers, a server, configs, results."""

import shutil
import sys

import numpy as np
from commands import start, start_ranks, write_config
from conftest import REPOSITORY, tiny_config
from PIL import Image
from test_remote import Server
from whole_runs import contents

from srgan_dist.data.split import open_set
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.storage.cache import GIB

RANK = REPOSITORY / "tests" / "soak" / "soak_rank.py"
LAUNCHERS = ("none", "ranks.py")
IMAGES = {"train": 48, "valid": 3, "test": 3}
PER_SHARD, PHASE = 4, 12  # samples of a shard, updates of a phase
SMALL_CACHE = {"batch_size": 2, "block_shards": 3}  # four blocks, of which the cache holds two
STEPS = {"steps": PHASE, "learning_rate": 1e-3, "losses": {"pixel": {"name": "l1"}}}
CONSTANT, COSINE = (STEPS | {"lr_schedule": {"name": name}} for name in ("constant", "cosine"))
EXTRAS = {"ema_decay": 0.9, "max_spike": 50.0}
VARIANTS = {
    "small cache": {"data": SMALL_CACHE, "pretrain": CONSTANT, "adversarial": CONSTANT},
    "micro-batches": {
        "gradient_accumulation_steps": 2,
        "pretrain": COSINE,
        "adversarial": COSINE | {"r1_gamma": 1.0},
    },
    "noise and EMA": {
        "generator": {"name": "srresnet", "num_blocks": 1, "num_filters": 8, "noise": 2, "tanh": False},
        "pretrain": COSINE | EXTRAS,
        "adversarial": CONSTANT | EXTRAS,
    },
    "phase 2 alone": {"pretrain": None, "adversarial": CONSTANT | {"steps": 2 * PHASE}},
}


class World:
    """A packed set in `folder`, served by HTTP too, and the results of undisturbed trainings on it."""

    def __init__(self, folder):
        self.folder, self.expected = folder, {}
        self.shards = folder / "set"
        options = BuildOptions(tile=44, crop=32, samples_per_shard=PER_SHARD)
        build(write_numbered(folder / "images"), self.shards, options)
        shards = open_set(self.shards).manifest.splits
        self.shard_bytes = max(entry.bytes for entry in shards["train"].shards)
        self.scored_bytes = sum(entry.bytes for name in ("valid", "test") for entry in shards[name].shards)
        self.server = Server(self.shards)

    def config(self, variant, folder, by_url=False, **changes):
        """Return the config of a training in a folder, which reads the set as files or by URL."""
        place = self.server.url if by_url else str(self.shards)
        changes = VARIANTS[variant] | changes
        data = {"lr_crop": 8, "batch_size": 4, "augment": "all", "block_shards": 6, "path": place}
        data |= changes.pop("data", {})
        cache_bytes = self.scored_bytes + (2 * data["block_shards"] + 1) * self.shard_bytes
        data |= {"cache": str(folder / "cache"), "cache_gib": cache_bytes / GIB}
        often = {"log_every": 1, "validate_every": 4, "checkpoint_every": 3, "keep_checkpoints": 2}
        few = {"num_sample_images": 0, "name": "run"}
        return tiny_config(place, folder, data=data, **often | few | changes)

    def undisturbed(self, variant):
        """Return the contents of the run of an undisturbed training, which is made at the first request."""
        if variant not in self.expected:
            folder = self.folder / f"undisturbed {variant}"
            folder.mkdir()
            config = self.config(variant, folder)
            for process in start_training("none", write_config(folder, config)):
                _, errors = process.communicate(timeout=300)
                assert process.returncode == 0, errors
            self.expected[variant] = contents(folder / "run")
        return self.expected[variant]

    def close(self):
        self.server.close()
        shutil.rmtree(self.folder)


def start_training(launcher, config, **environment):
    """Start two ranks, alone or under launch/ranks.py; returns the processes that were started."""
    if launcher == "none":
        return start_ranks(RANK, config, **environment)
    command = ("launch/ranks.py", "--standalone", "--nproc_per_node=2", RANK, config)
    return [start(sys.executable, *command, **environment)]


def write_numbered(folder):
    """Write HR images of whose grey levels all tell the number of the image: it is their value modulo 64."""
    numbers = iter(range(64))
    for split, count in IMAGES.items():
        (folder / split / "coal").mkdir(parents=True)
        for i in range(count):
            number = next(numbers)
            steps = np.random.default_rng(number).integers(0, 4, (40, 44), np.uint8)
            Image.fromarray(64 * steps + np.uint8(number)).save(folder / split / "coal" / f"slice_{i}.png")
    return folder


def empty(folder):
    """Remove all that is in a folder, as somebody who needs the room."""
    for path in list(folder.glob("*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
