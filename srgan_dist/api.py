"""The public functions: build, train, load_generator, from_pretrained, export, super_resolve, evaluate.

Those for images as arrays are in `images.py`.

Errors of input, settings and files are UserErrors, whose message names the way out.
"""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import torch

from srgan_dist import training
from srgan_dist.config import Config, ConfigError, load_config, parse_config
from srgan_dist.data.noise import Noise
from srgan_dist.evaluation import report
from srgan_dist.evaluation.measuring_settings import measuring_of
from srgan_dist.evaluation.super_resolve import check_noise, check_tile
from srgan_dist.evaluation.super_resolve_jobs import list_images_and_volumes, super_resolve_jobs
from srgan_dist.evaluation.super_resolver import SuperResolver
from srgan_dist.models import noise_channels, weights_file
from srgan_dist.models.hub_folder import find_folder, save_folder, travelling
from srgan_dist.models.onnx_file import check_onnx_libraries, export_onnx
from srgan_dist.packing import build as packing
from srgan_dist.packing.options import BuildOptions
from srgan_dist.packing.summary import format_counts
from srgan_dist.runtime.cpu import on_cpu
from srgan_dist.runtime.device import use_exact_float32
from srgan_dist.runtime.launch_variables import launched
from srgan_dist.runtime.process_group import end_all_ranks_on_error
from srgan_dist.storage.cache import DEFAULT_GIB, cache_at
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.settings import Settings

log = logging.getLogger(__name__)


def build(source, out, **options):
    """Pack a folder of images, one sub-folder per rock, into shards to train on; returns the images and bytes
    of each split as a table of text.

        print(srgan_dist.build("scans", "data/scans", scale=4, tile=256, crop=128))

    source: a folder, or a pair of them, (HR, LR). out: a new folder, or one that holds this set already.
    options: those of `srgan-dist build`, by the names of `packing.options.BuildOptions`. Raises UserError
    with every fault of the images.
    """
    known = [field.name for field in dataclasses.fields(BuildOptions)]
    if unknown := sorted(options.keys() - known):
        raise UserError(f"{unknown[0]} is not an option of build; those are {', '.join(known)}")
    result = packing.build(source, out, BuildOptions(**options))
    for note in result.notes:
        log.info("%s", note)
    return format_counts(result.manifest)


def train(config, resume="auto", **overrides):
    """Train an experiment in this process, or as one rank of a launcher; returns `training.Trained`.

        trained = srgan_dist.train("configs/demo.yaml", name="trial", **{"pretrain.steps": 500})
        trained.generator  # the network, on its device

    config: path of a YAML file, dictionary, or Config. overrides: settings by their dotted names. resume:
    "auto" continues the run directory if it holds a checkpoint, "never" only starts a new run, a path starts
    from that checkpoint. Where a signal stops the training it raises TrainingStopped after saving.
    """
    config = _config_of(config, overrides)
    if (config.cpu_ranks or 1) > 1 and on_cpu(config.device) and not launched():
        raise ConfigError(
            f"cpu_ranks={config.cpu_ranks}: srgan_dist.train is one rank in this process; set cpu_ranks=None,"
            " or train with the command: srgan-dist train CONFIG"
        )
    return training.train(config, resume)


def _config_of(config, overrides):
    settings = [
        f"{name}={json.dumps(value, default=_plain, ensure_ascii=False)}" for name, value in overrides.items()
    ]
    if isinstance(config, Config):
        return parse_config(config.model_dump(mode="json"), model=type(config), overrides=settings)
    if isinstance(config, dict):
        return parse_config(config, overrides=settings)
    return load_config(config, settings)


def _plain(value):
    """Return a settings table, a numpy number or a path as a value of JSON."""
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    return value.item() if isinstance(value, np.generic) else str(value)


def load_generator(path, device=None, self_ensemble=False):
    """Load trained weights as a SuperResolver, which is called on arrays.

        generator = srgan_dist.load_generator("runs/demo/weights/adversarial.safetensors")
        sr = generator(lr)  # numpy uint8 or uint16 [H, W] -> [s*H, s*W] of the same dtype
        generator.scale, generator.ndim, generator.header  # s, 2 or 3, facts of the weights file

    path: a weights file, a folder that `export` wrote, or "rocks_x4", the weights that come with srgan_dist
    (docs/weights.md). device: "cpu", "cuda", ...; None: a GPU where there is one. self_ensemble: the mean
    over 8 orientations of the input, more accurate, for 8 times the work.
    """
    use_exact_float32()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return SuperResolver(*weights_file.load_generator(path, device, self_ensemble))


def from_pretrained(name, device=None, self_ensemble=False, revision=None):
    """Load a generator from a folder that `export` wrote, or from a repository of the Hugging Face hub with
    the files of one.

        generator = srgan_dist.from_pretrained("OWNER/NAME")

    name: a path that exists, else an id of the hub, which is downloaded into its cache. revision: of a
    repository: branch, tag or commit. The rest is as of `load_generator`; the result too.
    """
    return load_generator(find_folder(name, revision), device, self_ensemble)


def export(weights, output, without_noise=False):
    """Write a trained generator for other programs: as an ONNX file, where output ends in .onnx, else as a
    folder in the layout of the Hugging Face hub (config.json, model.safetensors, README.md).

        srgan_dist.export("runs/demo/weights/adversarial.safetensors", "rocks_x4.onnx")

    The ONNX file takes images of any size; it is run by onnxruntime on random ones, and the largest deviation
    from PyTorch, of outputs in [-1, 1], is returned (1e-4 at most, else UserError). A folder returns None.
    without_noise: leave the noise of a generator that has some out of the ONNX file, whose result is then
    that of noise 0. Nothing that exists is replaced.
    """
    output = Path(output)
    if output.suffix == ".onnx":
        check_onnx_libraries()
    elif output.suffix[1:].isalpha():
        raise UserError(
            f"OUTPUT={output}: {output.suffix} files are not written; give a name that ends in .onnx or, for"
            " a folder in the layout of the Hugging Face hub, one without a suffix"
        )
    if output.exists() or output.is_symlink():
        raise UserError(f"OUTPUT={output} exists and is left as it is; give another name or delete it")
    generator, facts = weights_file.load_generator(weights)
    if without_noise and not (output.suffix == ".onnx" and noise_channels(generator.config)):
        what = (
            "an ONNX file" if output.suffix != ".onnx" else "a generator with noise, which this one has not"
        )
        raise UserError(f"--without-noise is for {what}; leave it out")
    if output.suffix == ".onnx":
        return export_onnx(output, generator, travelling(facts), without_noise)
    save_folder(output, generator, facts)
    return None


def super_resolve(
    weights,
    input,
    output,
    tile=None,
    device=None,
    noise=1.0,
    noise_seed=0,
    samples=None,
    self_ensemble=False,
    window=None,
    raw=None,
    halo=None,
    format=None,
):
    """Super-resolve the images of a file or folder into another one; returns the paths of the outputs, first
    those that are there already, last those of volumes by a 3-D generator.

        srgan_dist.super_resolve("runs/demo/weights/adversarial.safetensors", "scan.tif", "scan_x4.tif")

    Writes PNG, TIFF and NPY; docs/data.md lists what is read. A 3-D generator takes volumes block by
    block, also into MetaImage (.mhd) and OME-Zarr (.zarr); the same call continues one that was
    interrupted. Voxels that are not uint8 are read with the window of the training data, where the
    weights have one. window: "LOW:HIGH", the values that are black and white in the training data, for
    all types; "auto" gives the input the range of grey levels of these. A warning is logged where that
    range is another one, and where the mean of the result is not that of the input. tile: side in LR
    pixels of tiles and blocks, which bounds the memory; None: 192 in 2-D, in 3-D as many as fit 0.5 GiB on a
    CPU or 6 GiB of a GPU. device, self_ensemble: as for load_generator. noise, noise_seed: strength
    (0: none, 1: as trained) and seed of the noise of a generator that has some. samples: number of draws
    of it, whose mean is written to output, and their standard deviation beside it as NAME_spread. raw: of
    .raw and .vol files without a header, "400x500x600,uint16,little,0". halo: LR voxels around blocks of a
    3-D generator; None: so many that the result is exact. format: "tif", "npy", ... of files in a folder.
    Nothing is written where one of the outputs exists, but those of a folder that the same call has made are
    kept.
    """
    check_tile(tile)
    resolver, noise = load_generator(weights, device, self_ensemble), Noise(noise_seed, noise)
    check_noise(resolver.generator, noise, samples)
    options = {"window": window, "raw": raw, "halo": halo, "format": format}
    jobs = list_images_and_volumes(resolver, input, output, weights, noise, samples, **options)

    def warn(note):
        log.warning("%s", note)

    for note in jobs.notes:
        warn(note)
    written = super_resolve_jobs(resolver.generator, jobs, tile, tell=log.info, warn=warn)
    return jobs.kept + list(written)


def evaluate(
    run,
    shards,
    out=None,
    splits=("valid", "test"),
    cache=None,
    cache_gib=DEFAULT_GIB,
    progress=None,
    measures="basic",
    threshold="otsu",
    phase="dark",
    permeability=False,
    samples=8,
    plugs=(),
    self_ensemble=False,
):
    """Score the generators of a run directory against bicubic; returns the mean scores as a table of text.

        print(srgan_dist.evaluate("runs/demo", "data/deeprock_x4", splits=["test"]))

    run: run directory, folder of weights, or weights as of `load_generator`. Writes report.html, which shows
    all of it, scores.json, scores.csv, figure2.png and figure3.png to `out`, by default RUN/eval, and rock
    measures: measures.json, measures.csv, curves.npz. measures: "basic", "full" (of volumes also pore sizes
    and connected porosity) or "off". threshold: between pores and rock, "otsu" (from HR of the training
    split, per rock), a number from 0 to 1, or {rock: either}. phase: "dark" or "bright", that of the pores.
    permeability: of volumes, by Stokes flow, with "full". samples: draws of a generator's noise for
    calibration.json; 0: none. plugs: rocks whose images show a round plug in noisy air, which is left out of
    the measures. self_ensemble: as for load_generator. cache, cache_gib: folder and size limit of the copies
    of remote shards. progress(split) returns a function that wraps an iterator over the images, as tqdm does.
    Under a launcher all ranks share the work.
    """
    accelerator = report.joined_accelerator()
    out = out or report.default_out(run)
    measuring = measuring_of(measures, threshold, phase, permeability, samples, plugs)
    with end_all_ranks_on_error():
        return report.evaluate(
            run,
            shards,
            out,
            splits,
            accelerator,
            progress,
            cache_at(cache, cache_gib),
            measuring,
            self_ensemble,
        )
