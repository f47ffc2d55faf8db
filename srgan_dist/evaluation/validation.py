"""Validation of a generator while it trains: scores over whole splits, and panels of a few images."""

import contextlib
import hashlib
import json
import math
import time

import numpy as np
import torch

from srgan_dist.data.reader import Reader
from srgan_dist.evaluation.figures import (
    CROP,
    PLANES,
    label,
    middle_slices,
    name_plane,
    panel,
    size_along_bar,
    stack,
)
from srgan_dist.evaluation.measuring import measure_split, measure_table, pool_split
from srgan_dist.evaluation.measuring_settings import measuring_of, thresholds_of
from srgan_dist.evaluation.scoring import (
    AVERAGED,
    bicubic,
    mean_scores,
    methods_of,
    metrics_of,
    score_split,
)
from srgan_dist.evaluation.super_resolve import scaled, super_resolve, super_resolve_window
from srgan_dist.models import build_generator
from srgan_dist.models.layers import CHANNELS_LAST
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.storage.cache import cache_at
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import atomic_write, read_regular

PROTOCOL = 4  # version of the metrics and of bicubic; a change of either makes cached scores invalid
DB_PER_NAT = 10 / math.log(10)
IMAGES_FOR_OTSU = 8  # of a rock
BASIC = measuring_of("basic", "otsu", "dark", permeability=False, samples=0)
MEASURED = 64  # images of a split, at the end of a phase: 0.2 s of a core each and per method
PREFIXES = {"valid": "val"}  # of logged metrics; other splits keep their names


class Validator:
    """Scores generators on the splits of a run, every image on one rank, and records panels.

    It computes in float32 on a plain copy of the network, whatever precision and wrapping the training uses.
    """

    def __init__(self, config, splits, directory, tracker, accelerator):
        self.splits, self.directory, self.tracker, self.accelerator = splits, directory, tracker, accelerator
        self.num_sample_images = config.num_sample_images
        generator = build_generator(config.generator)
        layout = CHANNELS_LAST[config.generator.ndim]
        self.generator = generator.to(accelerator.device, memory_format=layout).eval()
        self.thresholds, self.psnr = {}, {}  # by set; of the last validation, by split, image and method
        self.bicubic_rows, self.cache = {}, cache_at(config.data.cache)
        self.seconds_per_pixel = None  # of the last validation, over all ranks

    def validate(self, generator, names):
        """Score `generator` on those of the splits `names` that exist.

        Returns {split: (metrics under their logged names, means per rock and method)}.
        """
        self.generator.load_state_dict(generator.state_dict())
        results = {}
        for name in names:
            if name not in self.splits:
                continue
            split = self.splits[name]
            methods = {"SR": lambda lr: super_resolve(self.generator, lr)}
            rows, thresholds, began = self._bicubic(split), self._thresholds(split), time.monotonic()
            rows = rows + self._score(split, methods, thresholds)
            self.seconds_per_pixel = (time.monotonic() - began) / lr_pixels(split)
            scores = mean_scores(rows)
            self.psnr |= {(name, row["index"], row["method"]): row["psnr"] for row in rows}
            metrics = to_logged_metrics(PREFIXES.get(name, name), rows, scores)
            results[name] = metrics, scores
        return results

    def seconds_of(self, *names):
        """Return how long those of the splits that exist will take by the last validation; None before it."""
        pixels = sum(lr_pixels(self.splits[name]) for name in names if name in self.splits)
        if self.seconds_per_pixel is None:
            return None if pixels else 0.0
        return pixels * self.seconds_per_pixel

    def measures(self, names, phase):
        """Return the rock measures of the generator that was validated last, called `phase`, and of bicubic
        as a table: columns and rows. Of the first MEASURED images of every split, the rocks in turn.
        """
        a, tables = self.accelerator, {}
        share = a.process_index, a.num_processes, a.device
        for name in names:
            if name not in self.splits:
                continue
            split = self.splits[name]
            methods = methods_of({phase: self.generator}, split.scale, a.device, split.ndim)
            thresholds = thresholds_of(split.set, split.rocks, {}, "dark", *share[:2])
            chosen = sorted(spread_over_rocks(split, MEASURED))
            records = measure_split(split, methods, thresholds, BASIC, *share, chosen=chosen)
            tables[name] = pool_split(records, list(methods), split.scale)[0]
        return measure_table(tables)

    def draw_panels(self, updates, samples_seen):
        """Draw and record panels of the generator that was validated last, on images of the valid split."""
        if not self.num_sample_images or not self.accelerator.is_main_process:
            return
        split = self.splits["valid"]
        reader = Reader(split)
        pictures, bands, bottom = [], [], 0
        for i in spread_over_rocks(split, self.num_sample_images):
            psnr, bicubic_psnr = (self.psnr["valid", i, method] for method in ("SR", "bicubic"))
            gain = f"{psnr:.2f} dB ({psnr - bicubic_psnr:+.2f} over bicubic)"
            for plane, picture in self._panels_of(*reader.image(i), reader.peak, reader.record(i)):
                top, bottom = bottom, bottom + picture.height
                name = label(f"{split.rock(i)}, {split.key(i)}", plane)
                bands.append((f"{name}: {gain}, update {updates:,}", top, bottom))
                pictures.append(picture)
        path = self.directory / "samples" / f"step-{updates:08d}.png"
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as unfinished:
            stack(pictures).save(unfinished, format="png")
        self.tracker.panels("samples", path, bands, samples_seen)

    def _panels_of(self, lr, hr, peak, record):
        """Yield the panel of an image, or those of the three middle slices of a volume: (`name_plane` of it,
        picture).
        """
        scale = self.generator.config.scale
        interpolated = bicubic(lr, scale, lr.ndim).numpy()
        for plane, window in middle_windows(lr.shape, CROP // scale).items():
            of_hr = scaled(window, scale)
            sr = super_resolve_window(self.generator, lr, window).cpu().numpy()
            images = (lr[window] / peak, interpolated[of_hr], sr, hr[of_hr] / peak)
            corner = [side.start for side in of_hr]
            name = name_plane(plane, record, corner, images[-1].shape)
            slices = (middle_slices(image)[plane] for image in images)
            yield name, panel(*slices, name, voxel_size_um=size_along_bar(record, plane))

    def _score(self, split, methods, thresholds=None):
        a = self.accelerator
        return score_split(split, methods, a.process_index, a.num_processes, a.device, thresholds=thresholds)

    def _thresholds(self, split):
        """Return {rock: threshold or None} from training images of the same set, computed once."""
        if split.set.sha256 not in self.thresholds:
            a = self.accelerator
            found = thresholds_of(
                split.set, split.rocks, {}, "dark", a.process_index, a.num_processes, IMAGES_FOR_OTSU
            )
            self.thresholds[split.set.sha256] = {rock: facts["value"] for rock, facts in found.items()}
        return self.thresholds[split.set.sha256]

    def _bicubic(self, split):
        """Return the scores of bicubic, which do not change: computed once, and kept in the cache folder for
        later runs.
        """
        if split.name not in self.bicubic_rows:
            cache = BicubicScoreCache(split, self.cache, self.accelerator.device)
            (rows,) = gather_lists([cache.read()] if self.accelerator.is_main_process else [])
            if rows is None:
                rows = self._score(split, methods_of({}, split.scale, self.accelerator.device, split.ndim))
                if self.accelerator.is_main_process:
                    cache.write(rows)
            self.bicubic_rows[split.name] = rows
        return self.bicubic_rows[split.name]


class BicubicScoreCache:
    """The scores of bicubic on a split, in a file whose name is a hash of everything that determines them. A
    file that cannot be read, of somebody else, or that does not fit the split, counts as missing.
    """

    def __init__(self, split, cache, device):
        self.split, self.cache = split, cache
        key = [PROTOCOL, split.set.sha256, split.name, device.type, torch.__version__]
        self.name = f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"

    @property
    def path(self):
        return self.cache.folder / "bicubic" / self.name

    def read(self):
        """Return the rows as `score_split` does, or None."""
        try:
            digest, _, text = read_regular(self.path, 2**30, own=True).partition(b"\n")
            if digest.decode() != hashlib.sha256(text).hexdigest():
                return None
            rows = json.loads(text)
            pairs = zip(self.split.scorable, rows, strict=True)
            fits = all(self._fits(i, row) for i, row in pairs)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return rows if fits else None

    def _fits(self, i, row):
        """Return whether a row is about image i and all its scores are finite."""
        expected = (i, self.split.key(i), self.split.rock(i), "bicubic")
        return (row["index"], row["key"], row["rock"], row["method"]) == expected and all(
            isinstance(row[name], float) and math.isfinite(row[name])
            for name in ("psnr", *metrics_of(self.split.ndim, self.split.scale))
        )

    def write(self, rows):
        with contextlib.suppress(OSError, UserError):  # also without a home folder
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as unfinished:
                text = json.dumps(rows)
                unfinished.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def lr_pixels(split):
    """Return the LR pixels of all images of a split that scores can judge."""
    return max(1, int(split.rows["lr_shape"][split.scorable].prod(axis=1, dtype=np.int64).sum()))


def spread_over_rocks(split, count):
    """Choose `count` images of a split that scores can judge (fewer if it has fewer), taking the rocks in
    turn.
    """
    by_rock = {}
    for i in sorted(split.scorable, key=split.key):
        by_rock.setdefault(split.rock(i), []).append(i)
    turns = [
        queue[turn]
        for turn in range(min(count, len(split)))
        for queue in by_rock.values()
        if turn < len(queue)
    ]
    return turns[:count]


def middle_windows(shape, side):
    """Return {plane: window} at the centre of an image of `shape`, of at most `side` pixels along each axis.

    An image [H, W] has one window, of plane ""; a volume has one per plane of `middle_slices`, one voxel
    thick.
    """
    middle = tuple(_middle(length, side) for length in shape)
    if len(shape) == 2:
        return {"": middle}
    return {
        plane: (*middle[:axis], slice(shape[axis] // 2, shape[axis] // 2 + 1), *middle[axis + 1 :])
        for axis, plane in enumerate(PLANES)
    }


def _middle(length, side):
    """Return the slice of `side` pixels in the middle of `length`, or of all where there are fewer."""
    side = min(side, length)
    return slice((length - side) // 2, (length - side) // 2 + side)


def to_logged_metrics(prefix, rows, scores):
    """Return the metrics of a validation under their logged names: means over images, gains also per rock."""

    def mean(name, method):
        values = [row[name] for row in rows if row["method"] == method]
        return sum(values) / len(values)

    names = (*AVERAGED, "mean_shift", "histogram_distance")
    metrics = {f"{prefix}/{name}": mean(name, "SR") for name in names if name in rows[0]}
    metrics[f"{prefix}/histogram_distance_bicubic"] = mean("histogram_distance", "bicubic")
    metrics[f"{prefix}/psnr_gain"] = mean("psnr", "SR") - mean("psnr", "bicubic")
    metrics[f"{prefix}/texture_score"] = texture_score(metrics, prefix)
    metrics |= rock_metrics(prefix, rows)
    for rock, methods in scores.items():
        metrics[f"{prefix}/psnr_gain/{rock}"] = methods["SR"]["psnr"] - methods["bicubic"]["psnr"]
    return metrics


def rock_metrics(prefix, rows):
    """Return what the SR of each rock does to its measures: {val/rock/<measure>/<rock>: value}, of the
    sums over its images: porosity_bias (SR over HR, minus 1) and interface_ratio (SR over HR) where pores
    are known, phase_dependence and lattice_excess (means, above HR's own; dB).
    """
    metrics = {}
    for rock in dict.fromkeys(row["rock"] for row in rows):
        of_rock = [row for row in rows if row["rock"] == rock and row["method"] == "SR"]

        def total(name, of_rock=of_rock):
            return sum(row[name] for row in of_rock)

        for name in ("phase_dependence", "lattice_excess"):
            metrics[f"{prefix}/rock/{name}/{rock}"] = (total(name) - total(f"{name}_hr")) / len(of_rock)
        if "porosity" in of_rock[0] and total("porosity_hr") and total("specific_interface_hr"):
            metrics[f"{prefix}/rock/porosity_bias/{rock}"] = total("porosity") / total("porosity_hr") - 1
            ratio = total("specific_interface") / total("specific_interface_hr")
            metrics[f"{prefix}/rock/interface_ratio/{rock}"] = ratio
    return metrics


def texture_score(metrics, prefix):
    """Return by what validation chooses the best weights of a phase with a discriminator, in dB: the PSNR
    gain over bicubic, for faithfulness, minus the spectrum error, for texture, and what SR shows of a
    lattice.

    The spectrum error is the mean of the radial and the directional one, as dB of power. Of the lattice, dB
    above HR's own count, and phase dependence above HR's own as dB of the share of power that has no phase.
    """

    def value(name):
        return metrics[f"{prefix}/{name}"]

    spectrum = DB_PER_NAT * (value("spectrum_error") + value("directional_spectrum_error")) / 2
    lattice = max(0.0, value("lattice_excess") - value("lattice_excess_hr"))
    phase = max(0.0, value("phase_dependence") - value("phase_dependence_hr"))
    return value("psnr_gain") - spectrum / 2 - lattice / 10 - 10 * phase


def format_psnr(global_step, split, scores):
    """Return the PSNR per rock after an update, and its gain over bicubic, as one line of text."""
    gains = {rock: (m["SR"]["psnr"], m["SR"]["psnr"] - m["bicubic"]["psnr"]) for rock, m in scores.items()}
    return f"update {global_step}, {split}, dB (over bicubic): " + ", ".join(
        f"{rock} {psnr:.2f} ({gain:+.2f})" for rock, (psnr, gain) in gains.items()
    )


def format_scores(title, scores):
    """Return the scores of a split as a table in text: {rock: {method: means}} -> a row per rock, of several
    rocks also their mean over images.
    """
    names = {"images": 8, "bicubic dB": 12, "SR dB": 9, "gain": 8, "SSIM": 9, "spectrum error": 16}
    rows = [(rock, [(of["bicubic"], of["SR"])]) for rock, of in scores.items()]
    if len(rows) > 1:
        rows.append(("all images", [pair for _, pairs in rows for pair in pairs]))
    first = max(len(text) for text in (title, *(name for name, _ in rows)))
    lines = [title.ljust(first) + "".join(name.rjust(width) for name, width in names.items())]
    for name, pairs in rows:
        count = sum(sr["count"] for _, sr in pairs)
        before, after, ssim, spectrum = (
            sum(pair[method][key] * pair[method]["count"] for pair in pairs) / count
            for method, key in ((0, "psnr"), (1, "psnr"), (1, "ssim"), (1, "spectrum_error"))
        )
        cells = f"{count}", f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"
        cells += f"{ssim:.4f}", f"{spectrum:.2f}"
        lines.append(name.ljust(first) + "".join(map(str.rjust, cells, names.values())))
    return "\n".join(lines)
