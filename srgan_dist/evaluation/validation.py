"""Looking at a generator while it trains: scores over whole splits, and panels of a few images."""

import contextlib
import hashlib
import json
import math

import torch

from srgan_dist.data.reader import Reader
from srgan_dist.evaluation.figures import CROP, panel, stack
from srgan_dist.evaluation.scoring import METRICS, bicubic, mean_scores, methods_of, score_split
from srgan_dist.evaluation.super_resolve import super_resolve, super_resolve_window
from srgan_dist.models import build_generator
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.storage.cache import cache_at
from srgan_dist.utils.files import atomic_write

PROTOCOL = 1  # of the metrics and of bicubic; a change of either makes kept scores void
PREFIXES = {"valid": "val"}  # of the public names of numbers; other splits keep theirs


class Validator:
    """Scores generators on the splits of a run, every image on one rank, and records panels.

    It computes in float32 on a plain copy of the network, whatever the training does to its own.
    """

    def __init__(self, config, splits, directory, tracker, accelerator):
        self.splits, self.directory, self.tracker, self.accelerator = splits, directory, tracker, accelerator
        self.panels = config.num_sample_images
        generator = build_generator(config.generator)
        self.generator = generator.to(accelerator.device, memory_format=torch.channels_last).eval()
        self.bicubic_rows, self.cache_folder = {}, cache_at(config.data.cache).folder

    def validate(self, generator, names):
        """Score `generator` on the splits `names`, as far as they exist.

        Returns {split: (numbers under their public names, means per rock and method)}.
        """
        self.generator.load_state_dict(generator.state_dict())
        results = {}
        for name in names:
            if name not in self.splits:
                continue
            split = self.splits[name]
            rows = self._bicubic(split) + self._score(
                split, {"SR": lambda lr: super_resolve(self.generator, lr)}
            )
            scores = mean_scores(rows)
            numbers = to_logged_metrics(PREFIXES.get(name, name), rows, scores)
            results[name] = numbers, scores
        return results

    def draw_panels(self, updates, samples_seen):
        """Draw and record panels of the generator that was validated last, on images of the valid split."""
        if not self.panels or not self.accelerator.is_main_process:
            return
        split, pictures = self.splits["valid"], []
        reader = Reader(split)
        for i in spread_over_rocks(split, self.panels):
            lr, hr = reader.image(i)
            rows, columns = (_middle(length, CROP // split.scale) for length in lr.shape)
            of_hr = tuple(
                slice(split.scale * side.start, split.scale * side.stop) for side in (rows, columns)
            )
            sr = super_resolve_window(self.generator, lr, rows, columns).cpu().numpy()
            pictures.append(
                panel(
                    lr[rows, columns] / reader.peak,
                    bicubic(lr, split.scale).numpy()[of_hr],
                    sr,
                    hr[of_hr] / reader.peak,
                )
            )
        path = self.directory / "samples" / f"step-{updates:08d}.png"
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as unfinished:
            stack(pictures).save(unfinished, format="png")
        self.tracker.panels("samples", {"LR | bicubic | SR | HR | error": path}, samples_seen)

    def _score(self, split, methods):
        a = self.accelerator
        return score_split(split, methods, a.process_index, a.num_processes, a.device)

    def _bicubic(self, split):
        """Return the scores of bicubic, which do not change: computed once, and kept for later runs in the cache folder."""
        if split.name not in self.bicubic_rows:
            kept = KeptRows(split, self.cache_folder, self.accelerator.device)
            (rows,) = gather_lists([kept.read()] if self.accelerator.is_main_process else [])
            if rows is None:
                rows = self._score(split, methods_of({}, split.scale, self.accelerator.device))
                if self.accelerator.is_main_process:
                    kept.write(rows)
            self.bicubic_rows[split.name] = rows
        return self.bicubic_rows[split.name]


class KeptRows:
    """Scores of bicubic on a split, in a file that is named after all that decides them. It is a convenience: what cannot be
    read, or is not what it should be, is computed again.
    """

    def __init__(self, split, folder, device):
        self.split = split
        decides = [PROTOCOL, split.set.sha256, split.name, device.type, torch.__version__]
        self.path = folder / "bicubic" / f"{hashlib.sha256(json.dumps(decides).encode()).hexdigest()}.json"

    def read(self):
        """Return the rows as `score_split` does, or None."""
        try:
            digest, _, text = self.path.read_bytes().partition(b"\n")
            if digest.decode() != hashlib.sha256(text).hexdigest():
                return None
            rows = json.loads(text)
            right = len(rows) == len(self.split) and all(
                (row["index"], row["key"], row["rock"], row["method"])
                == (i, self.split.key(i), self.split.rock(i), "bicubic")
                and all(
                    isinstance(row[name], float) and math.isfinite(row[name]) for name in ("psnr", *METRICS)
                )
                for i, row in enumerate(rows)
            )
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return rows if right else None

    def write(self, rows):
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as unfinished:
                text = json.dumps(rows)
                unfinished.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def spread_over_rocks(split, count):
    """Choose `count` images of a split (fewer if it has fewer), taking the rocks in turn."""
    by_rock = {}
    for i in sorted(range(len(split)), key=split.key):
        by_rock.setdefault(split.rock(i), []).append(i)
    turns = [
        queue[turn]
        for turn in range(min(count, len(split)))
        for queue in by_rock.values()
        if turn < len(queue)
    ]
    return turns[:count]


def _middle(length, side):
    """Return the slice in the middle of `length` pixels that has `side` of them, or all."""
    side = min(side, length)
    return slice((length - side) // 2, (length - side) // 2 + side)


def to_logged_metrics(prefix, rows, scores):
    """Return the numbers of one validation under their public names: means over images, gains also per rock."""

    def mean(name, method):
        chosen = [row[name] for row in rows if row["method"] == method]
        return sum(chosen) / len(chosen)

    numbers = {
        f"{prefix}/{name}": mean(name, "SR")
        for name in ("psnr", "ssim", "spectrum_error", "mean_shift", "histogram_distance")
    }
    numbers[f"{prefix}/histogram_distance_bicubic"] = mean("histogram_distance", "bicubic")
    numbers[f"{prefix}/psnr_gain"] = mean("psnr", "SR") - mean("psnr", "bicubic")
    for rock, methods in scores.items():
        numbers[f"{prefix}/psnr_gain/{rock}"] = methods["SR"]["psnr"] - methods["bicubic"]["psnr"]
    return numbers


def format_psnr(scores):
    """Say the PSNR per rock, and what it gains over bicubic."""
    gains = {rock: (m["SR"]["psnr"], m["SR"]["psnr"] - m["bicubic"]["psnr"]) for rock, m in scores.items()}
    return "; ".join(
        f"{rock} {psnr:.2f} dB ({gain:+.2f} over bicubic)" for rock, (psnr, gain) in gains.items()
    )
