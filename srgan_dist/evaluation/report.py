"""Scores of bicubic and of the generators of a run on whole images, per image and per rock, with tables and
figures.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator

from srgan_dist.data.manifest import SPLITS
from srgan_dist.data.split import open_set
from srgan_dist.evaluation.calibration import calibration
from srgan_dist.evaluation.examples import typical_examples
from srgan_dist.evaluation.figures import figure_2, figure_3, title
from srgan_dist.evaluation.grey_range import ranges_in, set_notes
from srgan_dist.evaluation.html_report import write_report
from srgan_dist.evaluation.measuring import files_of_measures, measure_split
from srgan_dist.evaluation.measuring_settings import check_measuring, thresholds_of
from srgan_dist.evaluation.metrics import relative_error_reduction
from srgan_dist.evaluation.scoring import (
    AVERAGED,
    METRICS_OF_VOLUMES,
    OF_HR,
    TEXTURE_METRICS,
    check_scorable,
    constant_note,
    mean_of,
    mean_scores,
    methods_of,
    pattern_notes,
    score_split,
)
from srgan_dist.models import makes_grain, noise_channels
from srgan_dist.models.weights_file import MODEL, find_weights, load_generator, read_facts
from srgan_dist.runtime.cpu import share_of_cores
from srgan_dist.runtime.device import check_group, cpu_wanted, use_exact_float32
from srgan_dist.runtime.process_group import barrier, join
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, write_json

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
    *TEXTURE_METRICS,
    *(f"{name}_hr" for name in OF_HR),
)

MEASURE_FILES = "measures.json", "measures.csv", "curves.npz", "calibration.json"


def evaluate(
    run, shards, out, splits, accelerator, progress=None, cache=None, measuring=None, self_ensemble=False
):
    """Score the generators of a run directory on a packed set and write tables and figures to `out`.

    Writes scores.csv (a row per image and method, and one per image that has no scores), scores.json (means
    per split, rock and method), figure2.png, figure3.png and last report.html, which shows all of it; with
    measuring (`evaluation/measuring.py`) also measures.json, measures.csv, curves.npz and, of generators with
    noise, calibration.json. self_ensemble: score each generator as a SelfEnsemble. progress(split name)
    returns a function that wraps the batches as tqdm does. Returns the table as text.
    """
    if is_url(out):
        raise UserError(f"--out={out} is a URL; name a folder for tables and figures")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder for tables and figures")
    generators = load_generators(Path(run), accelerator.device, self_ensemble)
    present = open_splits(shards, splits, cache)
    ndim, scale = check_fit(present, generators, f"SHARDS={shards}", f"RUN={run}")
    share = accelerator.process_index, accelerator.num_processes, accelerator.device
    thresholds = _thresholds(present, measuring, share) if measuring else None
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)

    notes = [note for split in present for note in constant_note(split)]
    notes += set_notes(present, _trained_ranges(run)) if accelerator.is_main_process else []
    methods = methods_of(generators, scale, accelerator.device, ndim)
    show = progress if progress and accelerator.is_main_process else lambda name: iter
    rows = [row for split in present for row in score_split(split, methods, *share, show(split.name))]
    _check_finite(rows, run)
    add_error_reduction(rows)
    notes += pattern_notes(rows)
    results = {}
    if measuring:
        results = _measure(present, methods, generators, measuring, thresholds, share, show)
    if accelerator.is_main_process:
        _write_scores(out, rows, present)
        for name in MEASURE_FILES:
            if name in results:
                results[name](out / name)
            else:  # of an evaluation before this one
                (out / name).unlink(missing_ok=True)
        examples = typical_examples(present, rows, methods)
        figures = {
            "figure2.png": figure_2(examples),
            "figure3.png": figure_3(_per_rock_psnr(rows)),
        }
        for name, figure in figures.items():
            with atomic_write(out / name) as path:
                figure.savefig(path, format="png", dpi=120)
        write_report(out, run, examples, results.keys(), _facts_of(present, shards, self_ensemble, notes))
    barrier()
    return "\n".join([format_table(rows), *notes])


def default_out(run):
    """Return the folder for the files of an evaluation that names none."""
    if not Path(run).is_dir():
        raise UserError(
            f"RUN={run} is no run directory, which would take tables and figures; name a folder with --out"
        )
    return Path(run) / "eval"


def joined_accelerator():
    """Join the ranks of a launcher, if there is one, and return the Accelerator of an evaluation."""
    check_group(join(cpu_wanted(), timeout_minutes=30))
    accelerator = Accelerator()
    torch.set_num_threads(share_of_cores(accelerator))  # beside a GPU too, for rock measures
    use_exact_float32()
    return accelerator


def _thresholds(splits, measuring, share):
    """Return the thresholds of the rocks of some splits, after checking what is to be measured; None:
    nothing.
    """
    if measuring.extent == "off":
        return None
    check_measuring(splits, measuring)
    rocks = sorted({split.rock(i) for split in splits for i in range(len(split))})
    return thresholds_of(
        splits[0].set, rocks, measuring.thresholds, measuring.phase, *share[:2], plugs=measuring.plugs
    )


def _measure(splits, methods, generators, measuring, thresholds, share, show):
    """Take the rock measures and the calibration; returns {file: function(path) that writes it}."""
    files = {}
    if thresholds is not None:
        results = {
            split.name: measure_split(
                split, methods, thresholds, measuring, *share, show(f"measures of {split.name}")
            )
            for split in splits
        }
        titles = {name: title(name) for name in methods}
        files = files_of_measures(results, list(methods), thresholds, measuring, splits[0].set, titles)
    noisy = {
        name: g
        for name, g in generators.items()
        if noise_channels(g.config) and g.config.ndim == splits[0].ndim
    }
    if noisy and measuring.samples:
        found = {
            split.name: {
                name: calibration(split, g, measuring.samples, *share) if makes_grain(g) else {}
                for name, g in noisy.items()
            }
            for split in splits
        }
        files["calibration.json"] = lambda path: write_json(path, found)
    return files


def load_generators(run, device, self_ensemble=False):
    """Return {name: generator} of every phase that a run has finished, in the order of the phases; or of
    every file in a folder of weights, e.g. RUN/weights/best; or of the weights that a path means.
    """
    paths = {path.parent.name if path.name == MODEL else path.stem: path for path in find_weights(run)}
    for name, path in paths.items():
        if name in RESERVED_NAMES:
            raise UserError(
                f"{path}: a generator cannot be called {name}, which has another meaning in tables and"
                " figures; rename the file"
            )
    loaded = {name: load_generator(path, device, self_ensemble) for name, path in paths.items()}
    if not loaded:
        raise UserError(
            f"RUN={run} holds no weights/*.safetensors; give the directory of a run that finished a phase,"
            " e.g. runs/NAME"
        )
    return {name: loaded[name][0] for name in sorted(loaded, key=lambda name: _phase_number(loaded[name][1]))}


def open_splits(shards, names, cache):
    """Open the splits that a packed set has of `names`, each once."""
    if wrong := [name for name in names if name not in SPLITS]:
        raise UserError(
            f"splits={names!r}: {wrong[0]} is no split; give a list of some of {', '.join(SPLITS)}"
        )
    packed = open_set(shards, cache)
    splits = [packed.split(name) for name in dict.fromkeys(names)]
    present = [split for split in splits if split is not None]
    if not present:
        raise UserError(
            f"SHARDS={shards} has none of the splits {', '.join(names)}; name others with --splits"
        )
    for split in present:
        check_scorable(split)
    return present


def _trained_ranges(run):
    """Return [(rock, GreyRange)] of the training images of all weights of a run."""
    return list(dict.fromkeys(own for path in find_weights(run) for own in ranges_in(read_facts(path))))


def _facts_of(splits, shards, self_ensemble, notes):
    """Return (name, value) of the data that were scored, for the report."""
    counts = ", ".join(f"{len(split.scorable)} of {split.name}" for split in splits)
    packed = splits[0].set
    return [
        ("data set", str(shards)),
        ("its manifest.json, sha256", packed.sha256),
        ("images scored", counts),
        *([("SR", "mean over 8 orientations of LR (--self-ensemble)")] if self_ensemble else []),
        *(("note", note) for note in notes),
    ]


def check_fit(splits, generators, shards, run):
    """Return the (ndim, scale) of a set whose scale all generators have; raise UserError if it has not, or if
    a generator of volumes meets images. A generator of images takes volumes slice by slice.
    """
    packed = splits[0]
    scales = {generator.config.scale for generator in generators.values()}
    if len(scales) > 1:
        raise UserError(
            f"{run} holds generators of different scale {sorted(scales)};"
            " move the weights of all but one elsewhere"
        )
    ndim = max(generator.config.ndim for generator in generators.values())
    for setting, value, fits in (
        ("ndim", ndim, ndim <= packed.ndim),
        ("scale", max(scales), scales == {packed.scale}),
    ):
        if not fits:
            raise UserError(
                f"{shards} has {setting}={getattr(packed, setting)}, the generators of {run} have"
                f" {setting}={value}; give a set and a run that agree"
            )
    return packed.ndim, packed.scale


def _phase_number(facts):
    number = facts.get("phase_number")
    return number if isinstance(number, int) else 0


def _check_finite(rows, run):
    for row in rows:
        for name in (*AVERAGED, "mse"):
            if not math.isfinite(row.get(name, 0)):
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


def _write_scores(out, rows, splits):
    with atomic_write(out / "scores.csv") as path, open(path, "w", newline="") as file:
        columns = [*COLUMNS, *(name for name in METRICS_OF_VOLUMES if name in rows[0])]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        for split in splits:
            for i in split.constant:
                facts = {"split": split.name, "rock": split.rock(i), "key": split.key(i)}
                writer.writerow({**facts, "method": "not scored: HR has one grey level"})
    means = {
        split: mean_scores([r for r in rows if r["split"] == split])
        for split in dict.fromkeys(r["split"] for r in rows)
    }
    write_json(out / "scores.json", means)


def _per_rock_psnr(rows):
    """Return {split: {rock: {method: list of dB}}}."""
    values = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        values[row["split"]][row["rock"]][row["method"]].append(row["psnr"])
    return {split: dict(sorted(rocks.items())) for split, rocks in values.items()}


def format_table(rows):
    """Return the mean scores per split, rock and method as text."""
    width = max(14, *(len(row["rock"]) + 2 for row in rows))
    head = f"{'split':<7}{'rock':<{width}}{'method':<18}{'images':>7}{'PSNR dB':>9}{'gain dB':>9}{'SSIM':>8}"
    head += f"{'spectrum':>10}{'error cut':>11}"
    if "ssim_slices" in rows[0]:
        head += f"{'SSIM slices':>13}{'spectrum z, y, x':>20}"
    lines = [head, "-" * len(head)]
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [row for row in rows if row["split"] == split]
        for rock, methods in mean_scores(chosen).items():
            for method, score in methods.items():
                group = [row for row in chosen if row["rock"] == rock and row["method"] == method]
                lines.append(
                    f"{split:<7}{rock:<{width}}{_format_score(method, score, methods['bicubic'], group)}"
                )
    return "\n".join(lines)


def _format_score(method, score, bicubic, rows):
    gain = score["psnr"] - bicubic["psnr"]
    reduction = mean_of(rows, "relative_error_reduction")
    of_volume = ""
    if "ssim_slices" in score:
        along = ", ".join(f"{score[f'spectrum_error_{axis}']:.2f}" for axis in "zyx")
        of_volume = f"{score['ssim_slices']:>13.4f}{along:>20}"
    return (
        f"{title(method):<18}{score['count']:>7}{score['psnr']:>9.2f}{gain:>+9.2f}{score['ssim']:>8.4f}"
        f"{score['spectrum_error']:>10.3f}{reduction:>11.1%}{of_volume}"
    )
