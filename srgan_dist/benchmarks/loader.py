"""Reading training pairs: our reader, plain WebDataset and a folder of PNG files on the same images.

Everything is single-threaded and measured in CPU time, so that pairs per second per core hold on a busy
machine too. The readers take turns, pass by pass; the figure is the median over passes.
"""

import io
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from srgan_dist.benchmarks.facts import machine_facts
from srgan_dist.data.degradation import downsample
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import CropSampler, slots_of
from srgan_dist.data.split import open_split
from srgan_dist.datasets.synthetic import ROCKS, synthesize
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.runtime.device import cpu_wanted
from srgan_dist.utils.progress import progress_bar

PAIRS, SIZE, SCALE, LR_CROP, BATCH = 600, 500, 4, 48, 16
BLOCKS, BLOCK, LR_CUBE = 32, 128, 16  # of the volumes: how many, HR voxels along an axis, LR crop
SLICES = 4  # of each synthetic rock; the other pairs are those again with noise of their own
LARGE = 10_000  # pairs of the set whose memory is measured
RESUMED = 12_000  # pairs of the set whose first batch is timed
UPDATES = 0, 1_000_000  # at which that set is entered
LINES = {
    "srgan_dist": "our reader, windows in memory",
    "webdataset": "WebDataset on the same shards",
    "png_folder": "folder of RGB PNG files",
    "to_device": "our loader, float batches on the device",
}


def run(arguments, save):
    """Measure on the device of this machine, print the table and save the results; returns them."""
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu_wanted() else "cpu")
    with tempfile.TemporaryDirectory(prefix="srgan_dist_benchmark_") as folder:
        results = measure(
            folder, device, arguments.passes, progress=lambda passes: progress_bar(passes, "measure", "pass")
        )
    results |= {"machine": machine_facts(device), "passes": arguments.passes}
    print(format_table(results), flush=True)
    save(results)
    return results


def format_table(results):
    """Return the figures as text, with the speed of our reader as a multiple of each."""
    lines = [f"{'pairs per second per core':<44}{'':>12}{'ours is x':>12}"]
    for name, text in LINES.items():
        text = text.replace("the device", results["machine"]["device"])
        lines.append(f"{text:<44}{results[name]:>12,.0f}{results['srgan_dist'] / results[name]:>12.1f}")
    for update, milliseconds in zip(UPDATES, results["first_batch_ms"], strict=True):
        lines.append(f"first batch of {RESUMED:,} pairs, entered at update {update:,}: {milliseconds:.1f} ms")
    memory = "unknown" if results["private_mib"] is None else f"{results['private_mib']:,.0f} MiB"
    if "volumes" in results:  # older files have none
        lines.append(f"{text_of_volumes():<44}{results['volumes']:>12,.0f}")
    return "\n".join([*lines, f"private memory after {LARGE:,} pairs: {memory}"])


def text_of_volumes():
    """Return what `volumes` of the results counts."""
    return f"volumes, {LR_CUBE}^3 and {SCALE * LR_CUBE}^3 out of {BLOCK}^3"


def measure(folder, device, passes=5, progress=iter):
    """Make data in `folder` and measure; returns pairs per second per core of each reader.

    Keys: srgan_dist (windows of uint8 batches in memory), webdataset (the same shards, whole samples decoded
    and cropped), png_folder (RGB PNG files decoded whole to float and cropped), to_device (our loader end to
    end, float batches on the device), volumes (ours, windows of uint8 blocks); first_batch_ms: milliseconds
    from entering a run at each of UPDATES to its first batch; private_mib: memory of this process after an
    epoch of LARGE pairs.
    """
    torch.set_num_threads(1)
    split = _make_data(Path(folder), PAIRS)
    readers = {
        "volumes": (_our_reader(_make_volumes(Path(folder)), LR_CUBE), 250),
        "srgan_dist": (_our_reader(split), 250),
        "webdataset": (_webdataset(split), PAIRS // BATCH),
        "png_folder": (_png_folder(Path(folder) / "png"), max(1, PAIRS // BATCH // 6)),
        "to_device": (_our_loader(split, device), 250),
    }
    for batches, _ in readers.values():
        next(batches)  # opens files, maps them and starts threads
    rates = {name: [] for name in readers}
    for _ in progress(range(passes)):
        for name, (batches, count) in readers.items():
            began = time.process_time()
            for _ in range(count):
                next(batches)
            rates[name].append(count * BATCH / (time.process_time() - began))
    for batches, _ in readers.values():
        batches.close()
    return {
        **{name: statistics.median(values) for name, values in rates.items()},
        "first_batch_ms": _first_batch_ms(split, device, passes),
        "private_mib": _private_mib_of_a_large_set(split),
    }


# The data


def _make_data(folder, pairs):
    """Write `pairs` HR images and their LR side as shards and as RGB PNG files; returns the train split."""
    rng = np.random.default_rng(0)
    slices = [synthesize(rock, 0, number, size=SIZE) for rock in ROCKS for number in range(SLICES)]
    (folder / "hr").mkdir(parents=True)
    (folder / "png").mkdir()
    for i in range(pairs):
        noisy = slices[i % len(slices)] + rng.normal(0, 4, (SIZE, SIZE))
        hr = noisy.round().clip(0, 255).astype(np.uint8)
        np.save(folder / "hr" / f"{i:04d}.npy", hr)
        for name, image in ((f"{i:04d}.png", hr), (f"{i:04d}x{SCALE}.png", downsample(hr, SCALE))):
            Image.fromarray(np.repeat(image[..., None], 3, axis=-1)).save(folder / "png" / name)
    build(folder / "hr", folder / "shards", BuildOptions(kind="default"))
    return open_split(folder / "shards", "train")


def _make_volumes(folder):
    """Write BLOCKS blocks of noise and their LR side as shards; returns the train split."""
    rng = np.random.default_rng(0)
    (folder / "blocks" / "train").mkdir(parents=True)
    for i in range(BLOCKS):
        np.save(folder / "blocks" / "train" / f"{i}.npy", rng.integers(0, 256, (BLOCK,) * 3, np.uint8))
    options = BuildOptions(kind="default", ndim=3, tile=BLOCK, crop=SCALE * LR_CUBE)
    build(folder / "blocks", folder / "block_shards", options)
    return open_split(folder / "block_shards", "train")


# The readers: endless generators of batches, lr [B, 1 or 3, c, c] and hr [B, 1 or 3, s*c, s*c]; of volumes
# lr [B, 1, c, c, c] and hr [B, 1, s*c, s*c, s*c]


def _our_reader(split, lr_crop=LR_CROP):
    reader = Reader(split)
    plan = CropSampler(split.rows["lr_shape"], lr_crop, seed=0, augment="none")
    lr, hr = reader.empty_batch(BATCH, lr_crop)
    update = 0
    while True:
        reader.batch(plan.crops(slots_of(update, 0, 1, BATCH)), lr, hr)
        yield lr, hr
        update += 1


def _our_loader(split, device):
    loader = TrainLoader([(split, 1.0)], LR_CROP, BATCH, 0, "none", 0, 1, device)
    yield from loader.batches(0)


def _webdataset(split):
    """The usual pipeline: whole samples through a shuffle buffer, decoded, cropped, collated."""
    rng = np.random.default_rng(0)
    shards = [str(path) for path in split.shards]

    def pair(sample):
        lr, hr = (np.load(io.BytesIO(sample[f"{side}.npy"]), allow_pickle=False) for side in ("lr", "hr"))
        return _cut(rng, torch.from_numpy(lr)[None], torch.from_numpy(hr)[None])

    while True:
        with warnings.catch_warnings():
            # WebDataset leaves its files to the garbage collector
            warnings.simplefilter("ignore", ResourceWarning)
            dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(100, seed=0)
            yield from dataset.map(pair).batched(BATCH, partial=False)


def _png_folder(folder):
    """The usual dataset class: RGB files decoded whole, made float, cropped."""
    rng = np.random.default_rng(0)
    names = sorted(path.stem for path in folder.glob("*.png") if f"x{SCALE}" not in path.stem)

    def read(path):
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255

    while True:
        for chosen in np.array_split(rng.permutation(names), len(names) // BATCH):
            pairs = [
                _cut(rng, read(folder / f"{name}x{SCALE}.png"), read(folder / f"{name}.png"))
                for name in chosen[:BATCH]
            ]
            yield [torch.stack(side) for side in zip(*pairs)]


def _cut(rng, lr, hr):
    top, left = rng.integers(0, lr.shape[-2] - LR_CROP + 1), rng.integers(0, lr.shape[-1] - LR_CROP + 1)
    window = hr[:, SCALE * top : SCALE * (top + LR_CROP), SCALE * left : SCALE * (left + LR_CROP)]
    return lr[:, top : top + LR_CROP, left : left + LR_CROP], window


# Resuming


def _first_batch_ms(split, device, passes):
    """Return the wall time in milliseconds to the first batch of a run entered at each of UPDATES."""
    large, times = replace(split, rows=np.resize(split.rows, RESUMED)), [[] for _ in UPDATES]
    for _ in range(passes):
        for update, durations in zip(UPDATES, times, strict=True):
            began = time.perf_counter()
            batches = TrainLoader([(large, 1.0)], LR_CROP, BATCH, 0, "none", 0, 1, device).batches(update)
            next(batches)
            durations.append(1000 * (time.perf_counter() - began))
            batches.close()
    return [statistics.median(durations) for durations in times]


# Memory


def _private_mib_of_a_large_set(split):
    """Return the private memory of this process in MiB after LARGE pairs; None on systems without /proc."""
    batches = _our_reader(replace(split, rows=np.resize(split.rows, LARGE)))
    for _ in range(LARGE // BATCH):
        next(batches)
    return _private_mib()


def _private_mib():
    """Return the memory that this process alone uses, without pages of mapped files."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":") for line in lines[1:])
    return int(fields["Private_Dirty"].split()[0]) / 1024
