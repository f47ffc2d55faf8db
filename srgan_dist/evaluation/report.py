"""Scores of bicubic and of the generators of a run on whole images, per image and per rock, with tables and figures."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set
from srgan_dist.evaluation.figures import figure_2, figure_3, title
from srgan_dist.evaluation.metrics import relative_error_reduction
from srgan_dist.evaluation.scoring import check_scorable, mean_of, mean_scores, methods_of, score_split
from srgan_dist.models.weights_file import load_generator
from srgan_dist.runtime.process_group import barrier
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write

RESERVED_NAMES = ("bicubic", "lr", "hr", "full")  # columns of the figures that no generator can be called
COLUMNS = (
    "split",
    "rock",
    "key",
    "method",
    "psnr",
    "ssim",
    "spectrum_error",
    "mse",
    "relative_error_reduction",
)


def evaluate(run, shards, out, splits, accelerator, progress=None, cache=None):
    """Score the generators of a run directory on a packed set and write tables and figures to `out`.

    Writes scores.csv (a row per image and method), scores.json (means per split, rock and method), figure2.png and
    figure3.png. Returns the table as text.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder for tables and figures")
    generators, scale = _load_generators(Path(run), accelerator.device)
    packed = open_set(shards, cache)
    opened = [packed.split(name) for name in dict.fromkeys(splits)]
    present = [split for split in opened if split is not None]
    if not present:
        raise UserError(
            f"SHARDS={shards} has none of the splits {', '.join(splits)}; name others with --splits"
        )
    if present[0].scale != scale:
        raise UserError(
            f"SHARDS={shards} has scale={present[0].scale}, the generators of RUN={run} have scale={scale}"
        )
    for split in present:
        check_scorable(split)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)

    methods = methods_of(generators, scale, accelerator.device)
    rows = []
    for split in present:
        bar = progress(split.name) if progress and accelerator.is_main_process else iter
        rows += score_split(
            split, methods, accelerator.process_index, accelerator.num_processes, accelerator.device, bar
        )
    _check_finite(rows, run)
    add_error_reduction(rows)
    if accelerator.is_main_process:
        _write_scores(out, rows)
        figures = {
            "figure2.png": figure_2(_examples(present, rows, methods)),
            "figure3.png": figure_3(_per_rock_psnr(rows)),
        }
        for name, figure in figures.items():
            with atomic_write(out / name) as path:
                figure.savefig(path, format="png", dpi=120)
    barrier()
    return format_table(rows)


def _load_generators(run, device):
    """Return ({name: generator}, scale) of every phase that a run has finished, in the order of the phases; or of every
    file in a folder of weights, e.g. RUN/weights/best.
    """
    paths = sorted((run / "weights").glob("*.safetensors")) or sorted(run.glob("*.safetensors"))
    for path in paths:
        if path.stem in RESERVED_NAMES:
            raise UserError(
                f"{path}: a generator cannot be called {path.stem}, which has another meaning in tables and"
                " figures; rename the file"
            )
    found = {path.stem: load_generator(path, device) for path in paths}
    if not found:
        raise UserError(
            f"RUN={run} holds no weights/*.safetensors;"
            " give the directory of a run that finished a phase, e.g. runs/NAME"
        )
    generators = {
        name: found[name][0] for name in sorted(found, key=lambda name: _phase_number(found[name][1]))
    }
    scales = {generator.config.scale for generator in generators.values()}
    if len(scales) > 1:
        raise UserError(f"RUN={run} holds generators of different scales {sorted(scales)}")
    return generators, scales.pop()


def _phase_number(facts):
    number = facts.get("phase_number")
    return number if isinstance(number, int) else 0


def _check_finite(rows, run):
    for row in rows:
        for name in ("psnr", "ssim", "spectrum_error", "mse"):
            if not math.isfinite(row[name]):
                raise UserError(
                    f"generator {row['method']} of RUN={run} has {name}={row[name]} on {row['key']} of the"
                    f" {row['split']} split; its weights are useless. Train it again, or move"
                    f" its {row['method']}.safetensors away to score the others"
                )


def add_error_reduction(rows):
    """Give every row its relative_error_reduction over bicubic on the same image."""
    bicubic_error = {(row["split"], row["index"]): row["mse"] for row in rows if row["method"] == "bicubic"}
    for row in rows:
        reference = bicubic_error[row["split"], row["index"]]
        row["relative_error_reduction"] = relative_error_reduction(row["mse"], reference)


def _write_scores(out, rows):
    with atomic_write(out / "scores.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    means = {
        split: mean_scores([r for r in rows if r["split"] == split])
        for split in dict.fromkeys(r["split"] for r in rows)
    }
    with atomic_write(out / "scores.json") as path:
        path.write_text(json.dumps(means, indent=1) + "\n")


def _examples(splits, rows, methods):
    """Return per rock the images of its typical sample: of the last split that has the rock, the one of median
    bicubic PSNR.
    """
    examples = {}
    for split in splits:
        reader = Reader(split)
        mine = [row for row in rows if row["split"] == split.name and row["method"] == "bicubic"]
        for rock in {row["rock"] for row in mine}:
            lr, hr = reader.image(median_image([row for row in mine if row["rock"] == rock]))
            images = {name: method(lr).cpu().numpy() for name, method in methods.items()}
            examples[rock] = {"lr": lr / reader.peak, "hr": hr / reader.peak, **images}
    return dict(sorted(examples.items()))


def median_image(rows):
    """Return the index of the image whose PSNR is the median (the upper one of two)."""
    return sorted((row["psnr"], row["index"]) for row in rows)[len(rows) // 2][1]


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
                cut = mean_of(
                    [r for r in chosen if r["rock"] == rock and r["method"] == method],
                    "relative_error_reduction",
                )
                gain = score["psnr"] - methods["bicubic"]["psnr"]
                lines.append(
                    f"{split:<7}{rock:<14}{title(method):<18}{score['count']:>7}{score['psnr']:>9.2f}{gain:>+9.2f}"
                    f"{score['ssim']:>8.4f}{score['spectrum_error']:>10.3f}{cut:>11.1%}"
                )
    return "\n".join(lines)
