"""One rank of a training of the soak: python soak_rank.py CONFIG

It notes the images of every batch that the training takes in RUN/../seen/RANK.jsonl, as lines
[update, micro-batch, [numbers of the images]]: an image's grey levels modulo 64 are its number.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from srgan_dist.cli.train import main
from srgan_dist.config import load_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.run import training_run


def noting(path):
    """Return a TrainLoader that appends what it hands out to a file."""

    class Noting(TrainLoader):
        def batches(self, first_update):
            with contextlib.closing(super().batches(first_update)) as batches, open(path, "a") as file:
                for number, batch in enumerate(batches):
                    update, micro_batch = divmod(number, self.gradient_accumulation_steps)
                    levels = batch[1].add(1).mul(127.5).round().long() % 64
                    images = levels[:, 0, 0, 0].tolist()
                    print(json.dumps([first_update + update, micro_batch, images]), file=file, flush=True)
                    yield batch

    return Noting


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # a killed process loses nothing that the system has
    seen = Path(load_config(sys.argv[1]).output) / "seen"
    seen.mkdir(exist_ok=True)
    training_run.TrainLoader = noting(seen / f"{os.environ['RANK']}.jsonl")
    main()
