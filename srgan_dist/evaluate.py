"""Scores of bicubic, phase-1 and phase-2 generators on whole images, per image and per rock, with tables and figures."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object

from srgan_dist.checkpoint import load_generator
from srgan_dist.data.degradation import upsample
from srgan_dist.data.index import open_split
from srgan_dist.data.plan import shard_of_ranks
from srgan_dist.data.reader import Reader
from srgan_dist.data.sample import to_signed, to_unit
from srgan_dist.figures import TITLES, figure_2, figure_3
from srgan_dist.metrics import SMALLEST_IMAGE, mse, psnr, relative_error_reduction, spectrum_error, ssim
from srgan_dist.super_resolve import super_resolve

PHASES = ("pretrain", "adversarial")
COLUMNS = ("split", "rock", "key", "method", "psnr", "ssim", "spectrum_error", "mse", "relative_error_reduction")


# Scoring, also used for validation during training

def bicubic(lr, scale, device="cpu"):
    """Enlarge lr [H, W] uint8 or uint16 to [s*H, s*W] float32 in [0, 1], what overshoots clamped."""
    unit = upsample(lr, scale) / np.iinfo(lr.dtype).max
    return torch.from_numpy(unit).float().clamp(0, 1).to(device)


def methods_of(generators, scale, device):
    """Return name -> function(lr) for bicubic and each of `generators` (name -> network in eval mode)."""
    methods = {"bicubic": lambda lr: bicubic(lr, scale, device)}
    for name, generator in generators.items():
        methods[name] = lambda lr, generator=generator: super_resolve(generator, lr)
    return methods


def check_scorable(split):
    """Raise ValueError if a split holds images that are too small for SSIM."""
    smallest = split.smallest_lr * split.scale
    if smallest < SMALLEST_IMAGE:
        raise ValueError(f"the {split.name} split of {split.directory} has HR images of {smallest} pixels a side;"
                         f" scores need {SMALLEST_IMAGE} or more (the window of SSIM)")


def score_split(split, methods, rank, world_size, device, progress=iter):
    """Score every image of a split exactly once over all ranks.

    methods: name -> function(lr [H, W]) -> [s*H, s*W] on [0, 1]. Returns on every rank the same list of dictionaries
    with index, split, rock, key, method, psnr, ssim, spectrum_error and mse, in the order of the split.
    """
    reader, mine = Reader(split), []
    for i in progress(shard_of_ranks(len(split), rank, world_size)):
        lr, hr = reader.image(i)
        hr = to_unit(to_signed(torch.from_numpy(hr).to(device)))
        for name, method in methods.items():
            sr = method(lr)
            mine.append({
                "index": i, "split": split.name, "rock": split.rock(i), "key": split.key(i), "method": name,
                "psnr": psnr(sr, hr), "ssim": ssim(sr, hr), "spectrum_error": spectrum_error(sr, hr), "mse": mse(sr, hr),
            })
    rows = sorted(gather_object(mine) if world_size > 1 else mine, key=lambda row: row["index"])
    assert len(rows) == len(split) * len(methods), "every image is scored once"
    return rows


def mean_scores(rows):
    """Average rows over images: {rock: {method: {psnr, ssim, spectrum_error, count}}}."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["rock"]][row["method"]].append(row)
    return {
        rock: {method: {**{name: _mean(group, name) for name in ("psnr", "ssim", "spectrum_error")}, "count": len(group)}
               for method, group in methods.items()}
        for rock, methods in sorted(groups.items())
    }


def _mean(rows, name):
    return float(np.mean([row[name] for row in rows]))


def add_error_reduction(rows):
    """Give every row its relative_error_reduction over bicubic on the same image."""
    bicubic_error = {(row["split"], row["index"]): row["mse"] for row in rows if row["method"] == "bicubic"}
    for row in rows:
        reference = bicubic_error[row["split"], row["index"]]
        row["relative_error_reduction"] = relative_error_reduction(row["mse"], reference)


# The command

def evaluate(run, shards, out, splits, accelerator, progress=None):
    """Score the generators of a run directory on a packed set and write tables and figures to `out`.

    Writes scores.csv (a row per image and method), scores.json (means per split, rock and method), figure2.png and
    figure3.png. Returns the table as text.
    """
    generators, scale = _load_generators(Path(run), accelerator.device)
    opened = [(name, open_split(shards, name)) for name in splits]
    present = [split for _, split in opened if split is not None]
    if not present:
        raise ValueError(f"SHARDS={shards} has none of the splits {', '.join(splits)}; name others with --splits")
    if present[0].scale != scale:
        raise ValueError(f"SHARDS={shards} has scale={present[0].scale}, the generators of RUN={run} have scale={scale}")
    for split in present:
        check_scorable(split)
    out = Path(out)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)

    methods = methods_of(generators, scale, accelerator.device)
    rows = []
    for split in present:
        bar = progress(split.name) if progress and accelerator.is_main_process else iter
        rows += score_split(split, methods, accelerator.process_index, accelerator.num_processes, accelerator.device, bar)
    add_error_reduction(rows)
    if accelerator.is_main_process:
        _write_scores(out, rows)
        figure_2(out / "figure2.png", _examples(present, rows, methods))
        figure_3(out / "figure3.png", _per_rock_psnr(rows))
    accelerator.wait_for_everyone()
    return format_table(rows)


def _load_generators(run, device):
    generators = {}
    for phase in PHASES:
        path = run / "weights" / f"{phase}.safetensors"
        if path.is_file():
            generators[phase], _ = load_generator(path, device)
    if not generators:
        raise ValueError(f"RUN={run} holds no weights/pretrain.safetensors or weights/adversarial.safetensors;"
                         " give the directory of a run that finished a phase, e.g. runs/NAME")
    scales = {generator.config.scale for generator in generators.values()}
    if len(scales) > 1:
        raise ValueError(f"RUN={run} holds generators of different scales {sorted(scales)}")
    return generators, scales.pop()


def _write_scores(out, rows):
    with open(out / "scores.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    means = {split: mean_scores([r for r in rows if r["split"] == split]) for split in dict.fromkeys(r["split"] for r in rows)}
    (out / "scores.json").write_text(json.dumps(means, indent=1) + "\n")


def _examples(splits, rows, methods):
    """Return per rock the images of its typical sample: of the last split that has the rock, the one of median
    bicubic PSNR.
    """
    examples = {}
    for split in splits:
        reader = Reader(split)
        mine = [row for row in rows if row["split"] == split.name and row["method"] == "bicubic"]
        for rock in {row["rock"] for row in mine}:
            ranked = sorted((row["psnr"], row["index"]) for row in mine if row["rock"] == rock)
            lr, hr = reader.image(ranked[len(ranked) // 2][1])
            images = {name: method(lr).cpu().numpy() for name, method in methods.items()}
            examples[rock] = {"lr": lr / reader.peak, "hr": hr / reader.peak, **images}
    return dict(sorted(examples.items()))


def _per_rock_psnr(rows):
    values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["rock"]][row["method"]].append(row["psnr"])
    return dict(sorted(values.items()))


def format_table(rows):
    """Return the mean scores per split, rock and method as text."""
    head = f"{'split':<7}{'rock':<14}{'method':<18}{'images':>7}{'PSNR dB':>9}{'gain dB':>9}{'SSIM':>8}{'spectrum':>10}{'error cut':>11}"
    lines = [head, "-" * len(head)]
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [row for row in rows if row["split"] == split]
        for rock, methods in mean_scores(chosen).items():
            for method, score in methods.items():
                cut = _mean([r for r in chosen if r["rock"] == rock and r["method"] == method], "relative_error_reduction")
                gain = score["psnr"] - methods["bicubic"]["psnr"]
                lines.append(
                    f"{split:<7}{rock:<14}{TITLES[method]:<18}{score['count']:>7}{score['psnr']:>9.2f}{gain:>+9.2f}"
                    f"{score['ssim']:>8.4f}{score['spectrum_error']:>10.3f}{cut:>11.1%}"
                )
    return "\n".join(lines)
