"""What the report is made of: the files that evaluate has written, and those of the run."""

import csv
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from srgan_dist.evaluation.report_page.training_curves import read_training_curves
from srgan_dist.models.weights_file import find_weights, read_facts
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import open_regular, read_regular, sha256_of
from srgan_dist.utils.json_text import load_json

OPTIONAL = ("measures.json", "measures.csv", "curves.npz", "calibration.json")  # beside scores
MAX_CONFIG = 200_000  # characters shown
MOST_BYTES = 2**30  # of a file of JSON


@dataclass(frozen=True)
class Sources:
    """Everything that is shown; what an evaluation or a run does not have is empty."""

    scores: dict  # split -> rock -> method -> {psnr, ssim, ...}
    rows: list  # of scores.csv that have scores
    measures: dict  # measures.json
    calibration: dict = field(default_factory=dict)  # calibration.json
    image_measures: list = field(default_factory=list)  # rows of measures.csv
    curves: dict = field(default_factory=dict)  # of curves.npz
    training: dict = field(default_factory=dict)  # name -> (samples seen, values)
    starts: list = field(default_factory=list)  # of the training, as of `_starts_of`
    config: str = ""
    weights: list = field(default_factory=list)  # of {file, phase, samples_seen, sha256}

    @property
    def methods(self):
        """Return the methods, bicubic first, in the order of the phases."""
        of_rocks = [methods for rocks in self.scores.values() for methods in rocks.values()]
        return list(dict.fromkeys(method for methods in of_rocks for method in methods))

    def entries(self, split, rock, variant="raw"):
        """Return {method: {measure: entry}} of measures.json."""
        methods = self.measures.get("per_split", {}).get(split, {}).get(rock, {})
        return {method: of.get(variant, {}) for method, of in methods.items()}

    def curve(self, split, rock, method, name):
        """Return a curve as a float array, None where there is none."""
        return self.curves.get(f"{split}/{rock}/{method}/{name}")

    def voxel_size_um(self, rock):
        """Return the voxel size of HR of a rock, None where it is not known."""
        size = (self.measures.get("voxel_size_um") or {}).get(rock)
        known = isinstance(size, int | float) and math.isfinite(size) and size > 0
        return size if known else None

    def threshold(self, rock):
        """Return the grey level on [0, 1] that separates pore and solid of a rock, or None."""
        value = (self.measures.get("thresholds", {}).get(rock) or {}).get("value")
        return value if isinstance(value, int | float) and math.isfinite(value) else None


def read_sources(out, run, written=OPTIONAL):
    """Read the files of an evaluation directory and of its run (a directory of a run or of weights).

    written: those of OPTIONAL that the evaluation has written; files of an earlier one are left out. Raises
    UserError where one is damaged.
    """
    out, run = Path(out), Path(run)
    if not (out / "scores.json").is_file():
        raise UserError(
            f"{out} holds no scores.json, so there is nothing to report; write it with:"
            " srgan-dist evaluate RUN SHARDS --out DIR"
        )
    readers = {"measures.json": _read_json, "measures.csv": _read_csv, "curves.npz": _read_npz}
    readers["calibration.json"] = _read_json
    found = {
        name: _read(out / name, reader, None) if name in written else None for name, reader in readers.items()
    }
    config, weights, provenance = _config_and_weights(run)
    return Sources(
        scores=_read(out / "scores.json", _read_json, {}),
        rows=[row for row in _read(out / "scores.csv", _read_csv, []) if row.get("psnr")],
        measures=found["measures.json"] or {},
        image_measures=found["measures.csv"] or [],
        curves=found["curves.npz"] or {},
        calibration=found["calibration.json"] or {},
        training=read_training_curves(run / "metrics.jsonl"),
        starts=_starts_of(run / "run.json", provenance),
        config=config,
        weights=weights,
    )


def _read(path, reader, default):
    if not path.exists():
        return default
    try:
        return reader(path)
    except (ValueError, KeyError, TypeError, EOFError, RecursionError, BadZipFile, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split()):.160}); write it again with: srgan-dist"
            " evaluate RUN SHARDS"
        ) from None


def _read_json(path):
    content = load_json(read_regular(path, MOST_BYTES))
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} where an object belongs")
    return content


def _read_csv(path):
    with io.TextIOWrapper(open_regular(path), "utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_npz(path):
    with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name].astype(float) for name in file.files}


def _starts_of(path, provenance):
    """Return what made the weights, [{global_step, ranks, commit, device, ...}]: every start of a run.json,
    where there is none the provenance of the weights, which knows neither update nor ranks.
    """
    if not path.is_file():
        return provenance
    try:
        return [dict(start) for start in _read_json(path)["starts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split()):.160}); restore it, or move it away: the"
            " weights have most of it too"
        ) from None


def _config_and_weights(run):
    """Return the resolved config as text, facts of the weights that were scored, and their provenance, each
    once.
    """
    weights, config, provenance = [], "", []
    for path in find_weights(run):
        facts = read_facts(path)
        weights.append(
            {
                "file": path.name,
                "phase": facts.get("phase"),
                "samples_seen": facts.get("samples_seen"),
                "sha256": sha256_of(path),
            }
        )
        config = json.dumps(facts.get("config"), indent=2) if facts.get("config") else config
        if isinstance(made := facts.get("provenance"), dict) and made not in provenance:
            provenance.append(made)
    if (run / "config.yaml").exists():
        config = str(read_regular(run / "config.yaml"), "utf-8", "replace")
    return config[:MAX_CONFIG], weights, provenance
