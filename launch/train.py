"""Train an experiment: accelerate launch launch/train.py [CONFIG] [--dry-run] [--resume auto|never|PATH] [--any.field=value]

On a CPU, where no launcher has started several ranks, it starts one per core by itself (setting cpu_ranks).

Exit codes: 0 done; 1 error, named on stderr; 2 wrong usage; 85 stopped by SIGTERM, SIGUSR1 or Ctrl-C after saving: the
same command continues; 130 interrupted before the first update, when there is nothing to save.
"""

from srgan_dist.runtime.parent_death import die_with_parent, use_one_blas_thread

die_with_parent()  # before imports that take seconds
use_one_blas_thread()

import argparse
import os
import sys
from pathlib import Path

from srgan_dist.config import load_config
from srgan_dist.run.dry_run import dry_run_report
from srgan_dist.run.preflight import preflight
from srgan_dist.runtime.cpu import on_cpu, ranks_on_cpu
from srgan_dist.runtime.device import check_device, launched, launched_ranks
from srgan_dist.training import train
from srgan_dist.utils.errors import cli_errors

DEFAULT = Path(__file__).parent.parent / "configs" / "deeprock_x4.yaml"


def main():
    parser = argparse.ArgumentParser(
        description="Train an experiment.",
        epilog="Any setting of the config can be given"
        " as --field=value, e.g. --adversarial.learning_rate=5e-5",
        allow_abbrev=False,
    )
    parser.add_argument(
        "config", nargs="?", default=DEFAULT, metavar="CONFIG", help="YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: continue the run directory if it holds a checkpoint; never: only start anew;"
        " PATH: start from that checkpoint, once the run has its own continue it (default: auto)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would happen, and stop"
    )
    arguments, overrides = parser.parse_known_args()
    stray = [text for text in overrides if not text.startswith("--")]
    if stray:
        parser.error(f"unexpected {' '.join(stray)}; settings are given as --field=value")

    with cli_errors():
        world_size = launched_ranks()
        config = load_config(arguments.config, [text.removeprefix("--") for text in overrides])
        check_device(config.device)
        device_type, ranks = "cpu" if on_cpu(config.device) else "cuda", world_size
        if device_type == "cpu" and not launched():
            before = preflight(config, arguments.resume).state.cpu_ranks
            ranks = ranks_on_cpu(config, before)
        if arguments.dry_run:
            if os.environ.get("RANK", "0") == "0":
                print(dry_run_report(config, preflight(config, arguments.resume, ranks), device_type, ranks))
            return
        if ranks > world_size:
            preflight(config, arguments.resume, ranks)  # says once what is wrong, not on every rank
            become_launcher(ranks)
        train(config, arguments.resume)


def become_launcher(ranks):
    """Go on as launch/ranks.py, which runs this command with that many ranks."""
    print(f"on CPU: {ranks} ranks of one core each (cpu_ranks)", flush=True)
    os.environ["ACCELERATE_USE_CPU"] = "1"
    launcher = Path(__file__).with_name("ranks.py")
    os.execv(
        sys.executable,
        [sys.executable, str(launcher), "--standalone", "--nproc_per_node", str(ranks), *sys.argv],
    )


if __name__ == "__main__":
    main()
