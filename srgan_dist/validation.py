"""Looking at a generator while it trains: scores over whole splits, and panels of a few images."""

import torch

from srgan_dist.data.reader import Reader
from srgan_dist.figures import panel, stack
from srgan_dist.files import written_whole
from srgan_dist.models import build_generator
from srgan_dist.scoring import bicubic, mean_scores, methods_of, score_split
from srgan_dist.super_resolve import super_resolve

PREFIXES = {"valid": "val"}  # of the public names of numbers; other splits keep theirs


class Validator:
    """Scores generators on the splits of a run, every image on one rank, and records panels.

    It computes in float32 on a plain copy of the network, whatever the training does to its own.
    """

    def __init__(self, config, splits, directory, tracker, accelerator):
        self.splits, self.directory, self.tracker, self.accelerator = splits, directory, tracker, accelerator
        self.panels = config.panels
        generator = build_generator(config.generator)
        self.generator = generator.to(accelerator.device, memory_format=torch.channels_last).eval()
        self.bicubic_rows = {}

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
            rows = self._bicubic(split) + self._score(split, {"SR": lambda lr: super_resolve(self.generator, lr)})
            scores = mean_scores(rows)
            numbers = public_numbers(PREFIXES.get(name, name), rows, scores)
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
            sr = super_resolve(self.generator, lr).cpu().numpy()
            pictures.append(panel(lr / reader.peak, bicubic(lr, split.scale).numpy(), sr, hr / reader.peak))
        path = self.directory / "samples" / f"step-{updates:08d}.png"
        path.parent.mkdir(exist_ok=True)
        with written_whole(path) as unfinished:
            stack(pictures).save(unfinished, format="png")
        self.tracker.panels("samples", {"LR | bicubic | SR | HR | error": path}, samples_seen)

    def _score(self, split, methods):
        a = self.accelerator
        return score_split(split, methods, a.process_index, a.num_processes, a.device)

    def _bicubic(self, split):
        if split.name not in self.bicubic_rows:  # they do not change
            self.bicubic_rows[split.name] = self._score(split, methods_of({}, split.scale, self.accelerator.device))
        return self.bicubic_rows[split.name]


def spread_over_rocks(split, count):
    """Choose `count` images of a split (fewer if it has fewer), taking the rocks in turn."""
    by_rock = {}
    for i in sorted(range(len(split)), key=split.key):
        by_rock.setdefault(split.rock(i), []).append(i)
    turns = [queue[turn] for turn in range(min(count, len(split))) for queue in by_rock.values() if turn < len(queue)]
    return turns[:count]


def public_numbers(prefix, rows, scores):
    """Return the numbers of one validation under their public names: means over images, gains also per rock."""
    def mean(name, method):
        chosen = [row[name] for row in rows if row["method"] == method]
        return sum(chosen) / len(chosen)

    numbers = {f"{prefix}/{name}": mean(name, "SR") for name in ("psnr", "ssim", "spectrum_error", "mean_shift", "histogram_distance")}
    numbers[f"{prefix}/histogram_distance_bicubic"] = mean("histogram_distance", "bicubic")
    numbers[f"{prefix}/psnr_gain"] = mean("psnr", "SR") - mean("psnr", "bicubic")
    for rock, methods in scores.items():
        numbers[f"{prefix}/psnr_gain/{rock}"] = methods["SR"]["psnr"] - methods["bicubic"]["psnr"]
    return numbers


def sentence(scores):
    """Say the PSNR per rock, and what it gains over bicubic."""
    gains = {rock: (m["SR"]["psnr"], m["SR"]["psnr"] - m["bicubic"]["psnr"]) for rock, m in scores.items()}
    return "; ".join(f"{rock} {psnr:.2f} dB ({gain:+.2f} over bicubic)" for rock, (psnr, gain) in gains.items())
