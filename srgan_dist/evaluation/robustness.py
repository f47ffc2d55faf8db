"""How generators bear LR images that are blurrier or noisier than those of the set: PSNR against blur and
noise.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from srgan_dist.data.degrade import degrade, reach_of
from srgan_dist.data.noise import seeds_of
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import images_of_rank
from srgan_dist.data.value_range import to_metric_range, to_network_range
from srgan_dist.evaluation.metrics import mse, psnr_of_mse
from srgan_dist.evaluation.report import check_fit, load_generators, open_splits
from srgan_dist.evaluation.scoring import constant_note, image_too_large, methods_of
from srgan_dist.runtime.cpu import one_thread_each
from srgan_dist.runtime.process_group import gather_lists
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.memory import memory_named

LIMITS = {"blur": 16, "noise": 1}  # the largest level
UNITS = {"blur": "sigma in LR pixels", "noise": "standard deviation, share of the range of grey levels"}


def measure_robustness(runs, shards, splits, levels, accelerator, cache=None, progress=iter):
    """Return PSNR in dB of bicubic and of the generators of some runs on degraded LR images.

    runs: run directories, or folders of weights; levels: {"blur": [...], "noise": [...]}, see UNITS, each by
    itself. The noise of an image is the same for all methods, and grows with the level. Images whose HR has
    one grey level are left out. Returns {"shards", "splits", "images", "images not scored" (sentences),
    "units", "levels", "psnr": {"blur" and "noise": {method: {rock or "all": [dB of each level, mean over
    images]}}}}; under a launcher on every rank.
    """
    _check_levels(levels)
    generators = _generators_of(runs, accelerator.device)
    present = open_splits(shards, splits, cache)
    ndim, scale = check_fit(present, generators, f"SHARDS={shards}", f"RUN={', '.join(map(str, runs))}")
    methods = methods_of(generators, scale, accelerator.device, ndim)
    cases = [(kind, level) for kind, values in levels.items() for level in values]
    rows = []
    for split in present:
        reader = Reader(split)
        chosen = images_of_rank(len(split.scorable), accelerator.process_index, accelerator.num_processes)
        own = [split.scorable[number] for number in chosen]
        images = ((split.rock(i), i, *reader.image(i)) for i in progress(own))

        def score(image):
            rock, number, lr, hr = image
            with memory_named(partial(image_too_large, hr.shape, rock)):
                return rock, scores_of(number, lr, hr)

        def scores_of(number, lr, hr):
            hr = to_metric_range(to_network_range(torch.from_numpy(hr[None]).to(accelerator.device)))
            return [
                [psnr_of_mse(mse(method(lr_of_case[None]), hr).item()) for method in methods.values()]
                for lr_of_case in (degraded(lr, number, **{kind: level}) for kind, level in cases)
            ]

        rows += one_thread_each(score, images, accelerator.device)
    rows = gather_lists(rows)
    rocks = sorted({rock for rock, _ in rows})
    values = {rock: np.mean([value for name, value in rows if name == rock], 0) for rock in rocks}
    values["all"] = np.mean([value for _, value in rows], 0)  # [cases, methods] each
    return {
        "shards": str(shards),
        "splits": [split.name for split in present],
        "images": len(rows),
        "images not scored": [note for split in present for note in constant_note(split)],
        "units": UNITS,
        "levels": levels,
        "psnr": {
            kind: {
                method: {
                    rock: [float(of_rock[k, m]) for k, case in enumerate(cases) if case[0] == kind]
                    for rock, of_rock in values.items()
                }
                for m, method in enumerate(methods)
            }
            for kind in levels
        },
    }


def degraded(lr, number, blur=0.0, noise=0.0):
    """Return an LR image [*shape] uint8 or uint16 with a blur (sigma in LR pixels) and noise (share of the
    range) as `data.degradation` adds them; number: of the image, which decides the noise.
    """
    seeds = seeds_of(0, torch.tensor([number]))
    values = [torch.tensor([value], dtype=torch.float32) for value in (blur, 1.0, noise)]
    image = torch.from_numpy(lr)[None, None]
    return degrade(image, seeds, *values, reach_of(blur))[0, 0].numpy()


def format_robustness(result):
    """Return the means over all images as text: a table for blur and one for noise, with the gain over
    bicubic in brackets.
    """
    tables = []
    for kind, methods in result["psnr"].items():
        levels, width = result["levels"][kind], max(len(name) for name in methods) + 2
        head = f"{kind:<{width}}" + "".join(f"{level:>16g}" for level in levels)
        lines = [f"PSNR in dB against {kind} of LR ({result['units'][kind]})", head, "-" * len(head)]
        for method, rocks in methods.items():
            gains = np.subtract(rocks["all"], methods["bicubic"]["all"])
            cells = [f"{db:.2f}" for db in rocks["all"]]
            if method != "bicubic":
                cells = [f"{cell} ({gain:+.2f})" for cell, gain in zip(cells, gains, strict=True)]
            lines.append(f"{method:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        tables.append("\n".join(lines))
    return "\n\n".join([*tables, *result["images not scored"]])


def _check_levels(levels):
    for kind, values in levels.items():
        if wrong := [value for value in values if not 0 <= value <= LIMITS[kind]]:
            raise UserError(f"--{kind} {wrong[0]:g} is not from 0 to {LIMITS[kind]}, its {UNITS[kind]}")


def _generators_of(runs, device):
    """Return {name: generator} of all runs; of several a name is RUN/PHASE."""
    generators = {}
    for run in runs:
        for phase, generator in load_generators(Path(run), device).items():
            name = f"{Path(run).resolve().name}/{phase}" if len(runs) > 1 else phase
            if name in generators:
                raise UserError(
                    f"RUN={run}: another run has a generator called {name} too; rename one folder"
                )
            generators[name] = generator
    return generators
