"""Scores, figures and panels of a set of volumes."""

import csv
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import texture, tiny_config
from PIL import Image
from skimage.metrics import structural_similarity

import srgan_dist
from srgan_dist.data.degradation import resize, upsample
from srgan_dist.data.image_files import read_header
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_split
from srgan_dist.data.write_volumes import create
from srgan_dist.evaluation import validation
from srgan_dist.evaluation.examples import typical_examples
from srgan_dist.evaluation.figures import GAP
from srgan_dist.evaluation.metrics import axis_log_power, psnr_of_mse
from srgan_dist.evaluation.report import evaluate
from srgan_dist.evaluation.scoring import methods_of, score_split
from srgan_dist.evaluation.super_resolve import super_resolve
from srgan_dist.evaluation.validation import Validator, spread_over_rocks
from srgan_dist.models import build_generator
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils.errors import UserError

SIDE = 24  # HR voxels
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("volumes"))


def write_volumes(root, sizes=None, tile=SIDE):
    """Pack a set of one rock with volumes of 24x24x24 voxels, x2, uint8, in blocks of `tile` voxels a side;
    returns its folder. sizes: of a voxel along z, y and x, in um.
    """
    (root / "hr" / "coal").mkdir(parents=True)
    for number in range(6):
        volume = [texture(100 * number + z, SIDE, SIDE) for z in range(SIDE)]
        writer = create(root / "hr" / "coal" / f"scan_{number}.mhd", (SIDE,) * 3, np.dtype(np.uint8), sizes)
        writer.write((0, 0, 0), np.stack(volume))
        writer.close()
    options = BuildOptions(ndim=3, scale=2, kind="default", tile=tile, crop=16, samples_per_shard=3)
    build(root / "hr", root / "set", options)
    return root / "set"


def network(ndim=3):
    torch.manual_seed(0)
    return SRResNet(SRResNetConfig(ndim=ndim, scale=2, num_blocks=1, num_filters=4, init_std=None)).eval()


def test_bicubic_of_volumes_is_scored_in_three_dimensions_and_by_slices(volumes):
    split = open_split(volumes, "valid")
    rows = score_split(split, methods_of({}, 2, CPU, 3), 0, 1, CPU)
    assert len(rows) == len(split)
    settings = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for row in rows:
        lr, hr = Reader(split).image(row["index"])
        hr, sr = hr / 255, np.clip(upsample(lr, 2, ndim=3) / 255, 0, 1)
        slices = [structural_similarity(*images, **settings) for images in zip(hr, sr)]
        assert row["psnr"] == pytest.approx(-10 * np.log10(np.mean((sr - hr) ** 2)), abs=1e-3)
        assert row["ssim"] == pytest.approx(structural_similarity(hr, sr, **settings), abs=1e-4)
        assert row["ssim_slices"] == pytest.approx(np.mean(slices), abs=1e-4)


def test_tables_of_volumes_have_both_forms_of_ssim(volumes, tmp_path):
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(), {})
    table = evaluate(tmp_path, volumes, tmp_path / "eval", ["valid"], Accelerator()).splitlines()
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())["valid"]["coal"]["pretrain"]
    texture = ["directional_spectrum_error", "phase_dependence", "lattice_excess"]
    of_hr = ["phase_dependence_hr", "lattice_excess_hr"]
    along = ["spectrum_error_z", "spectrum_error_y", "spectrum_error_x"]
    of_volumes = ["ssim_slices", *along]
    assert list(scores) == ["psnr", "ssim", "spectrum_error", *of_volumes, *texture, *of_hr, "count"]
    assert table[0].split()[-6:] == ["SSIM", "slices", "spectrum", "z,", "y,", "x"]
    assert table[3].endswith(", ".join(f"{scores[name]:.2f}" for name in along))
    with open(tmp_path / "eval" / "scores.csv") as file:
        found = [float(row["ssim_slices"]) for row in csv.DictReader(file) if row["method"] == "pretrain"]
    assert np.mean(found) == pytest.approx(scores["ssim_slices"])
    with Image.open(tmp_path / "eval" / "figure2.png") as figure:
        assert figure.height == pytest.approx(3 * 5.1 * 120, abs=2)  # three planes of the one rock


def test_a_generator_of_images_is_scored_slice_by_slice_beside_one_of_volumes(volumes, tmp_path):
    save_generator(tmp_path / "weights" / "slices.safetensors", network(ndim=2), {"phase_number": 0})
    save_generator(tmp_path / "weights" / "volume.safetensors", network(), {"phase_number": 1})
    evaluate(tmp_path, volumes, tmp_path / "eval", ["valid"], Accelerator())
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())["valid"]["coal"]
    assert list(scores) == ["bicubic", "slices", "volume"]
    lr, hr = Reader(open_split(volumes, "valid")).image(0)
    by_hand = [super_resolve(network(ndim=2), page).numpy() for page in lr]
    by_hand = resize(np.stack(by_hand), hr.shape, "bicubic").clip(0, 1)
    assert scores["slices"]["psnr"] == pytest.approx(
        psnr_of_mse(np.mean((by_hand - hr / 255) ** 2)), abs=1e-3
    )


def test_power_along_an_axis_is_that_of_its_lines():
    """A cosine of amplitude a and 8 periods along y alone: power only there; white noise: its variance."""
    y = torch.arange(64.0)
    wave = (0.2 * torch.cos(2 * torch.pi * 8 * y / 64)).view(1, 1, 64, 1).expand(1, 48, 64, 32)
    along_y, along_x = axis_log_power(wave, 1)[0], axis_log_power(wave, 2)[0]
    assert along_y.shape == (32,) and along_y.argmax() == 7
    assert along_y[7].exp() == pytest.approx(0.2**2 / 4 * 64 / 1.5, rel=1e-3)  # a^2/4 N over Hann's 1.5
    assert along_x[1:].max() < -15  # a constant line has its window's power in the lowest frequency alone
    noise = 0.1 * torch.randn(1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    assert axis_log_power(noise, 0).exp().mean() == pytest.approx(0.01, rel=0.02)


def test_a_generator_of_volumes_takes_no_images(tmp_path, shards):
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(), {})
    with pytest.raises(UserError, match="SHARDS=.* has ndim=2, the generators of RUN=.* have ndim=3; give"):
        evaluate(tmp_path, shards, tmp_path / "eval", ["valid"], Accelerator())


class Recorder:
    """A tracker that keeps the panels it is given."""

    def __init__(self):
        self.recorded = []

    def panels(self, name, path, bands, samples_seen):
        self.recorded.append((name, path, bands, samples_seen))


def validator_of(volumes, folder, recorder):
    """Return the Validator of a training on a set of volumes."""
    generator = {
        "name": "srresnet",
        "ndim": 3,
        "scale": 2,
        "num_blocks": 1,
        "num_filters": 4,
        "init_std": None,
    }
    data = {"path": str(volumes), "lr_crop": 8, "batch_size": 2, "cache": str(folder / "cache")}
    config = tiny_config(volumes, folder, generator=generator, data=data, adversarial=None)
    return Validator(config, {"valid": open_split(volumes, "valid")}, folder, recorder, Accelerator())


def test_scale_bars_have_the_size_of_the_voxels_along_them(tmp_path, monkeypatch):
    volumes = write_volumes(tmp_path, (8.0, 4.0, 2.0))
    along_bars = [2.0, 2.0, 4.0]  # of the planes xy, xz and yz: along x, x and y
    split, methods = open_split(volumes, "valid"), methods_of({}, 2, CPU, 3)
    examples = typical_examples([split], score_split(split, methods, 0, 1, CPU), methods)
    assert [example.voxel_size_um for example in examples] == along_bars

    drawn, panel = [], validation.panel

    def noted(*images, voxel_size_um):
        drawn.append(voxel_size_um)
        return panel(*images, voxel_size_um=voxel_size_um)

    monkeypatch.setattr(validation, "panel", noted)
    validator = validator_of(volumes, tmp_path, Recorder())
    validator.validate(network(), ["valid"])
    validator.draw_panels(5, 10)
    assert drawn == along_bars

    # The whole of it for arrays; lengths of measures count voxels, which are no lengths in um then
    pair = next(srgan_dist.read_pairs(volumes))
    assert pair.voxel_size_um == (8.0, 4.0, 2.0)
    with pytest.raises(UserError, match="must be one number above 0, of voxels that are cubes"):
        srgan_dist.rock_measures(pair.hr, 0.5, voxel_size_um=pair.voxel_size_um)
    save_generator(tmp_path / "weights" / "pretrain.safetensors", network(), {})
    srgan_dist.evaluate(tmp_path, volumes, splits=["valid"])
    assert json.loads((tmp_path / "eval" / "measures.json").read_text())["voxel_size_um"] == {"coal": None}
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "2.00 µm per HR pixel" in page and "4.00 µm per HR pixel" in page


def test_validation_logs_ssim_of_slices_and_draws_three_planes(volumes, tmp_path):
    split, recorder = open_split(volumes, "valid"), Recorder()
    validator = validator_of(volumes, tmp_path, recorder)
    metrics, scores = validator.validate(network(), ["valid", "test"])["valid"]
    assert metrics["val/ssim_slices"] == pytest.approx(scores["coal"]["SR"]["ssim_slices"])
    assert metrics["val/psnr_gain"] == pytest.approx(metrics["val/psnr_gain/coal"])

    validator.draw_panels(5, 10)
    ((name, path, bands, samples_seen),) = recorder.recorded
    assert (name, samples_seen) == ("samples", 10)
    key, psnr = split.key(0), scores["coal"]["SR"]["psnr"]
    gain = psnr - scores["coal"]["bicubic"]["psnr"]
    scored = f"{psnr:.2f} dB ({gain:+.2f} over bicubic), update 5"
    planes = "xy, z = 13", "xz, y = 13", "yz, x = 13"
    assert bands == [
        (f"coal, {key} {plane}: {scored}", number * (16 + SIDE), (number + 1) * (16 + SIDE))
        for number, plane in enumerate(planes)
    ]
    with Image.open(path) as image:
        picture = np.asarray(image.convert("L"), float)
    assert picture.shape == (3 * (16 + SIDE), 5 * (SIDE + GAP) - GAP)
    _, hr = Reader(split).image(*spread_over_rocks(split, 1))
    left = 3 * (SIDE + GAP)
    for number, plane in enumerate((hr[13], hr[:, 13], hr[:, :, 13])):  # in the LR slice 6, the middle of 12
        top = number * (16 + SIDE) + 16
        drawn = picture[top : top + SIDE, left : left + SIDE]
        assert np.corrcoef(drawn.ravel(), plane.ravel())[0, 1] > 0.999


def test_slices_of_blocks_are_named_by_their_index_in_the_file(tmp_path):
    split = open_split(write_volumes(tmp_path, tile=16), "valid")
    first, *_, last = sorted(range(len(split)), key=split.key)
    reader = Reader(split)
    record = reader.record(last)
    assert record["corner"] == [8, 8, 8]
    recorder, config = Recorder(), tiny_config(split.place, tmp_path, 3, num_sample_images=len(split))
    validator = Validator(config, {"valid": split}, tmp_path, recorder, Accelerator())
    validator.validate(build_generator(config.generator), ["valid"])
    validator.draw_panels(5, 10)
    captions = [caption.partition(":")[0] for caption, *_ in recorder.recorded[0][2]]
    for three, i, index in ((captions[:3], first, 9), (captions[-3:], last, 17)):
        planes = f"xy, z = {index}", f"xz, y = {index}", f"yz, x = {index}"
        assert three == [f"coal, {split.key(i)} {plane}" for plane in planes]

    row = {"split": "valid", "rock": "coal", "index": last, "method": "bicubic", "psnr": 20.0, "ssim": 0.5}
    examples = typical_examples([split], [row], {})
    assert [example.plane for example in examples] == ["xy, z = 16", "xz, y = 16", "yz, x = 16"]
    source = read_header(tmp_path / "hr" / record["source"])
    volume = source.read((0, 0, 0), source.shape)
    for axis, example in enumerate(examples):
        assert np.array_equal(example.images["hr"] * reader.peak, volume.take(16, axis)[8:, 8:])
