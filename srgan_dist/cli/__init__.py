"""The console command: srgan-dist VERB. Each verb is a module here with main(argv, prog).

Modules of verbs import PyTorch and the like when a command runs, so that --help is instant.
"""

import argparse
import importlib
import sys

import srgan_dist
from srgan_dist.utils.errors import cli_errors

VERBS = {
    "synthesize": "write synthetic rocks in the layout of DeepRock-SR",
    "download": "fetch DeepRock-SR-2D and unpack it",
    "build": "pack images into WebDataset tar shards",
    "index": "make any WebDataset of pairs trainable in place; write lost index tables again",
    "summarize": "show counts, sizes, rocks and grey levels of a packed set; verify it",
    "train": "train an experiment",
    "evaluate": "score the generators of a run against bicubic interpolation",
    "robustness": "score the generators of runs against blur and noise of LR",
    "report": "make a report of runs in wandb",
    "upscale": "super-resolve images",
    "export": "write a generator as an ONNX file or for the Hugging Face hub",
    "benchmark": "measure how fast this machine trains and reads",
    "settings": "list the settings of a config",
    "schema": "print the JSON schema of a config",
}


@cli_errors()
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="srgan-dist",
        usage="%(prog)s VERB [arguments]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train super-resolution GANs for micro-CT rock images.",
        epilog="verbs, each with a --help of its own:\n"
        + "\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items())
        + "\n\nOn several GPUs: accelerate launch -m srgan_dist train CONFIG, or torchrun in its place.",
    )
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help="one of those below")
    parser.add_argument("--version", action="version", version=f"%(prog)s {srgan_dist.__version__}")
    verb = parser.parse_args(argv[:1]).verb
    importlib.import_module(f"srgan_dist.cli.{verb}").main(argv[1:], prog=f"srgan-dist {verb}")
