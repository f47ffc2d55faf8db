"""Measure this machine: python launch/benchmark.py loader [--json FILE]"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from srgan_dist.benchmarks import loader
from srgan_dist.errors import reported
from srgan_dist.files import written_whole
from srgan_dist.machine import cpu_wanted
from srgan_dist.progress import tracked

LINES = {
    "srgan_dist": "our reader, windows in memory",
    "webdataset": "WebDataset on the same shards",
    "png_folder": "folder of RGB PNG files",
    "to_device": "our loader, float batches on the device",
}


def main():
    parser = argparse.ArgumentParser(description="Measure how fast this machine runs the parts of a training.")
    parser.add_argument("part", choices=["loader"], help="loader: pairs per second per core, LR 48 to HR 192, batches of 16")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to a file too")
    parser.add_argument("--passes", type=int, default=5, help="the median of so many (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.passes < 1:
        parser.error(f"--passes {arguments.passes} must be 1 or more")
    with reported():
        device = torch.device("cuda" if torch.cuda.is_available() and not cpu_wanted() else "cpu")
        with tempfile.TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
            found = loader.measure(folder, device, arguments.passes, progress=lambda passes: tracked(passes, "measure", "pass"))
        if arguments.json:
            with written_whole(arguments.json) as path:
                path.write_text(json.dumps(found | {"device": str(device)}, indent=1) + "\n")
    print(format_table(found, device))


def format_table(found, device):
    """Return the figures as text, each way beside its share of our reader's."""
    lines = [f"{'pairs per second per core':<44}{'':>12}{'ours is x':>12}"]
    for name, text in LINES.items():
        lines.append(f"{text.replace('the device', str(device)):<44}{found[name]:>12,.0f}{found['srgan_dist'] / found[name]:>12.1f}")
    for update, milliseconds in zip(loader.UPDATES, found["first_batch_ms"], strict=True):
        lines.append(f"first batch of {loader.RESUMED:,} pairs, entered at update {update:,}: {milliseconds:.1f} ms")
    memory = "unknown" if found["private_mib"] is None else f"{found['private_mib']:,.0f} MiB"
    return "\n".join([*lines, f"private memory after {loader.LARGE:,} pairs: {memory}"])


if __name__ == "__main__":
    main()
