"""Train an experiment:
srgan-dist train [CONFIG] [--dry-run] [--resume auto|never|PATH] [--profile N] [--any.field=value]

On a CPU, without a launcher, it starts one rank per core by itself (setting cpu_ranks).

Exit codes: 0 done; 1 error, named on stderr; 2 wrong usage; 85 stopped by SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C
after saving: the same command continues; 128 + n by signal n before the first update, with nothing to save.
"""

import argparse
import os
import sys

from srgan_dist.runtime.parent_death import die_with_parent, use_one_blas_thread
from srgan_dist.utils.config_files import config_file
from srgan_dist.utils.errors import cli_errors


@cli_errors()
def main(argv=None, prog=None):
    die_with_parent()  # before imports that take seconds
    use_one_blas_thread()
    argv = sys.argv[1:] if argv is None else argv
    arguments, overrides = parse_arguments(argv, prog)

    from srgan_dist.config import load_config
    from srgan_dist.run.cpu_ranks import ranks_on_cpu
    from srgan_dist.run.dry_run import dry_run_report, memory_of_rank
    from srgan_dist.run.preflight import preflight
    from srgan_dist.runtime.cpu import on_cpu
    from srgan_dist.runtime.device import check_device
    from srgan_dist.runtime.launch_variables import launch_number, launched, launched_ranks
    from srgan_dist.training import train

    world_size = launched_ranks()
    config = load_config(arguments.config, overrides)
    check_device(config.device)
    device_type, ranks = "cpu" if on_cpu(config.device) else "cuda", world_size
    if device_type == "cpu" and not launched():
        ranks = ranks_on_cpu(config, preflight(config, arguments.resume).state.cpu_ranks)
    if arguments.dry_run:
        if launch_number("RANK", 0) == 0:
            checked, memory = preflight(config, arguments.resume, ranks), memory_of_rank(device_type, ranks)
            print(dry_run_report(config, checked, device_type, ranks, memory))
        return
    if ranks > world_size:
        preflight(config, arguments.resume, ranks)  # reports errors once, not on every rank
        become_launcher(ranks, argv)
    train(config, arguments.resume, arguments.profile)


def parse_arguments(argv, prog):
    """Return the arguments and the settings that override the file: ["adversarial.learning_rate=5e-5"]."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train an experiment.",
        epilog="Any setting of the config can be given"
        " as --field=value, e.g. --adversarial.learning_rate=5e-5",
        allow_abbrev=False,
    )
    parser.add_argument(
        "config",
        nargs="?",
        default=config_file("deeprock_x4.yaml"),
        metavar="CONFIG",
        help="YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: continue the run directory if it holds a checkpoint; never: only start a new run;"
        " PATH: start from that checkpoint, once the run has its own continue it (default: auto)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would happen, and stop"
    )
    parser.add_argument(
        "--profile",
        type=_count,
        metavar="N",
        help="write a trace of N updates of each phase, on rank 0, to profile/PHASE.json.gz of the run",
    )
    arguments, overrides = parser.parse_known_args(argv)
    stray = [text for text in overrides if not text.startswith("--")]
    if stray:
        parser.error(f"unexpected {' '.join(stray)}; settings are given as --field=value")
    return arguments, [text.removeprefix("--") for text in overrides]


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of updates, e.g. 10")
    return int(text)


def become_launcher(ranks, argv):
    """Replace this process by runtime/ranks.py, which runs the same command on several ranks."""
    print(f"on CPU: {ranks} ranks of one core each (cpu_ranks)", flush=True)
    os.environ["ACCELERATE_USE_CPU"] = "1"
    launcher = ["-m", "srgan_dist.runtime.ranks", "--standalone", "--nproc_per_node", str(ranks)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "srgan_dist", "train", *argv])
