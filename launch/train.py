"""Train an experiment: accelerate launch launch/train.py [CONFIG] [--dry-run] [--resume auto|never|PATH] [--any.field=value]

Exit codes: 0 done; 1 error, named on stderr; 2 wrong usage; 85 stopped by SIGTERM, SIGUSR1 or Ctrl-C after saving: the
same command continues; 130 interrupted before the first update, when there is nothing to save.
"""

from srgan_dist.launched import end_with_launcher

end_with_launcher()  # before imports that take seconds

import argparse
import os
from pathlib import Path

import torch

from srgan_dist.config import load_config
from srgan_dist.errors import reported
from srgan_dist.machine import check_device, cpu_wanted, launched_ranks
from srgan_dist.prepare import dry_run_report, prepare
from srgan_dist.train import train

DEFAULT = Path(__file__).parent.parent / "configs" / "deeprock_x4.yaml"


def main():
    parser = argparse.ArgumentParser(description="Train an experiment.", epilog="Any setting of the config can be given"
                                     " as --field=value, e.g. --adversarial.learning_rate=5e-5", allow_abbrev=False)
    parser.add_argument("config", nargs="?", default=DEFAULT, metavar="CONFIG", help="YAML file (default: %(default)s)")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH",
                        help="auto: continue the run directory if it holds a checkpoint; never: only start anew;"
                             " PATH: start from that checkpoint, once the run has its own continue it (default: auto)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would happen, and stop")
    arguments, overrides = parser.parse_known_args()
    stray = [text for text in overrides if not text.startswith("--")]
    if stray:
        parser.error(f"unexpected {' '.join(stray)}; settings are given as --field=value")

    with reported():
        world_size = launched_ranks()
        config = load_config(arguments.config, [text.removeprefix("--") for text in overrides])
        if arguments.dry_run:
            if os.environ.get("RANK", "0") != "0":
                return
            check_device(config.device)
            device_type = "cuda" if torch.cuda.is_available() and not cpu_wanted(config.device) else "cpu"
            print(dry_run_report(config, prepare(config, arguments.resume, world_size), device_type, world_size))
        else:
            train(config, arguments.resume)


if __name__ == "__main__":
    main()
