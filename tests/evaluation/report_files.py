"""Invented evaluation directories, run directories and examples of a tiny rock, for the report; its page."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
from conftest import texture

from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.evaluation.examples import Example
from srgan_dist.evaluation.html_report import write_report
from srgan_dist.evaluation.report_page.sources import OPTIONAL

METHODS = ("bicubic", "pretrain", "adversarial")
MEASURES = {"porosity": "", "specific_interface": "1/px", "euler_density": "1/px^n", "chord_length": "px"}
BIAS = {"bicubic": -0.4, "pretrain": -0.2, "adversarial": 0.05}


def write_scores(out, rocks=("coal",), splits=("valid", "test"), methods=METHODS):
    """Write scores.json and scores.csv of three images per rock."""
    out.mkdir(parents=True, exist_ok=True)
    score = {"ssim": 0.7, "spectrum_error": 2.0, "count": 3, "lattice_excess": 12.3, "lattice_excess_hr": 3.1}
    score["directional_spectrum_error"] = 1.25
    means = {
        split: {rock: {m: {"psnr": 28.0 + k, **score} for k, m in enumerate(methods)} for rock in rocks}
        for split in splits
    }
    (out / "scores.json").write_text(json.dumps(means))
    columns = ["split", "rock", "key", "method", "psnr", "ssim", "relative_error_reduction"]
    with open(out / "scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for split, rock, image in ((s, r, i) for s in splits for r in rocks for i in range(3)):
            for k, method in enumerate(methods):
                writer.writerow([split, rock, f"{rock}_{image}", method, 28 + k + image / 10, 0.7, 0.1 * k])


def entry(method, unit="", hr=0.2, interval=True, methods=METHODS, **changes):
    """Return an entry of measures.json; interval: whether there were enough units for one."""
    bias = BIAS.get(method, 0.1)
    against = {
        other: {
            "difference": (difference := abs(bias) - abs(BIAS.get(other, 0.1))),
            "interval": [difference - 0.01, difference + 0.01] if interval else None,
        }
        for other in methods
        if other != method
    }
    return {
        "value": hr * (1 + bias),
        "hr": hr,
        "bias": bias,
        "bias_kind": "relative",
        "interval": [bias - 0.01, bias + 0.01] if interval else None,
        "unit": unit,
        "images": 3,
        "sources": 1,
        "plugs": 1,
        "level": "block" if interval else None,
        "units": 12 if interval else None,
        "against": {} if method == "bicubic" else against,
    } | changes


def write_measures(out, rocks=("coal",), splits=("valid", "test"), methods=METHODS, interval=True, **changes):
    """Write measures.json, measures.csv and curves.npz."""
    of_method = {
        m: {name: entry(m, unit, interval=interval, methods=methods) for name, unit in MEASURES.items()}
        for m in methods
    }
    measures = {
        "protocol": 1,
        "versions": {"scipy": "9.9"},
        "phase": "dark",
        "thresholds": {rock: {"value": 0.4, "source": "Otsu of HR of train"} for rock in rocks},
        "sweep": [0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15],
        "scale": 4,
        "ndim": 2,
        "voxel_size_um": dict.fromkeys(rocks, 2.5),
        "per_split": {
            split: {rock: {m: {"raw": of, "median": of} for m, of in of_method.items()} for rock in rocks}
            for split in splits
        },
        "verdicts": {
            split: {rock: {m: f"Verdict of {m}." for m in methods} for rock in rocks} for split in splits
        },
    }
    (out / "measures.json").write_text(json.dumps(measures | changes))
    with open(out / "measures.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "rock", "key", "method", "variant", *MEASURES])
        for split, rock, image in ((s, r, i) for s in splits for r in rocks for i in range(3)):
            for method in ("hr", *methods):
                value = (0.2 + image / 10) * (1 + BIAS.get(method, 0))
                writer.writerow([split, rock, f"{rock}_{image}", method, "raw", value, value, "", value])
    np.savez(out / "curves.npz", **curves(rocks[:1], splits[:1], methods))


def curves(rocks, splits, methods):
    names = ("two_point_normalised", "spectrum", "spectrum_directional", "histogram")
    found = {}
    for path in (f"{s}/{r}/{m}" for s in splits for r in rocks for m in ("hr", *methods)):
        found |= {f"{path}/{name}": np.linspace(1.0, 0.1, 18) for name in names}
        found[f"{path}/threshold_sweep"] = found[f"{path}/threshold_sweep_median"] = np.linspace(0.1, 0.2, 7)
        found[f"{path}/pore_sizes"] = np.array([0.2, 0.5, np.nan, 0.3])
        found[f"{path}/pore_sizes_radii"] = np.arange(1.0, 5.0)
        if not path.endswith("/hr"):
            found[f"{path}/frc"] = np.linspace(1, 0, 30)
            found[f"{path}/frc_frequency"] = np.linspace(0, 0.5, 30)
    return found


def write_run(run):
    """Write config.yaml, metrics.jsonl and run.json of a run; its weights are not there."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("name: tiny\nseed: 3\n")
    names = "val/psnr_gain", "val/texture_score", "val/spectrum_error", "val/directional_spectrum_error"
    of_rocks = [f"val/rock/{name}/coal" for name in ("porosity_bias", "interface_ratio", "lattice_excess")]
    records = [
        {"samples_seen": 16 * k, "train/psnr": 20.0 + k, "loss/pixel": 0.1 / k}
        | dict.fromkeys([*names, *of_rocks], 0.1 * k)
        for k in range(1, 20)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = {"srgan_dist": "0.2.0", "commit": "c0ffee", "device": "NVIDIA H200", "ranks": 8, "torch": "2.10"}
    starts = [{"global_step": step, **made, "data_sha256": ["ab" * 32]} for step in (0, 1500)]
    starts.append({**starts[0], "global_step": 2000, "ranks": 4, "commit": None})
    (run / "run.json").write_text(json.dumps({"starts": starts}))


def example(rock="coal", split="valid", key="coal_0", methods=METHODS, voxel_size_um=2.5, size=(64, 72)):
    hr = texture(0, *size)
    lr = downsample(hr, 4)
    bicubic = np.clip(upsample(lr, 4) / 255, 0, 1)
    images = {"lr": lr / 255, **dict.fromkeys(methods, bicubic), "hr": hr / 255}
    scores = {method: {"psnr": 28.25, "ssim": 0.701} for method in methods}
    return Example(split, rock, "", key, images, scores, voxel_size_um)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.pieces = [("", {})], []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags[-1][0] not in ("script", "style"):
            self.pieces.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


def report(tmp_path, *examples, written=OPTIONAL, facts=()):
    return write_report(tmp_path / "eval", tmp_path, examples, written, facts).read_text()
