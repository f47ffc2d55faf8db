"""Grey levels at inference: what weights know of their training, other windows, the means of LR and SR."""

import logging
import shutil

import numpy as np
import pytest
import tifffile
import torch
from conftest import texture, tiny_config
from test_super_resolve import network, super_resolve_grey

import srgan_dist
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.grey_range import GreyRange, MeanComparison, robust_range, trained_ranges
from srgan_dist.models.weights_file import save_generator
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.run import training_run

SCENE = texture(3, 40, 44)


@pytest.fixture
def weights(tmp_path):
    """A generator whose training images had the range of SCENE."""
    low, high = robust_range(SCENE)
    path = tmp_path / "g.safetensors"
    save_generator(path, network(), {"grey_ranges": [{"rock": "coal", "low": low / 255, "high": high / 255}]})
    return path


def upscale(weights, values, caplog, **options):
    """Super-resolve an array through TIFF files; returns (SR, warnings)."""
    folder = weights.parent
    for name in ("in.tif", "out.tif"):
        (folder / name).unlink(missing_ok=True)
    tifffile.imwrite(folder / "in.tif", values, photometric="minisblack")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        srgan_dist.super_resolve(weights, folder / "in.tif", folder / "out.tif", device="cpu", **options)
    return tifffile.imread(folder / "out.tif"), [record.getMessage() for record in caplog.records]


def test_the_range_of_grey_levels_leaves_masks_and_saturation_out():
    values = np.repeat(np.arange(101), 10)
    assert robust_range(values) == (1, 99)
    masked = np.concatenate([np.zeros(5000), values + 50, np.full(2000, 255)])
    assert robust_range(masked) == (51, 149)
    assert robust_range(np.full(9, 7)) is None and robust_range([0] * 9 + [255] * 9) == (0, 255)


def test_an_offset_a_narrow_range_and_nothing_else_are_another_range():
    trained = GreyRange(0.1, 0.7)
    for low, high, alike in (
        (0.1, 0.7, True),
        (0.15, 0.8, True),  # another rock
        (0.1, 0.35, True),  # one with little contrast
        (0.1 / 16, 0.7 / 16, False),  # 12 bits in 16
        (0.5 + 0.1 / 16, 0.5 + 0.7 / 16, False),
        (0.3, 0.9, False),
        (0.0, 1.0, False),  # stretched
    ):
        assert GreyRange(low, high).resembles(trained) == alike, (low, high)


def test_the_ranges_of_a_training_are_those_of_its_lr_images_rock_by_rock(tmp_path):
    for rock, levels in (("bright", (100, 200)), ("dark", (20, 60))):
        (tmp_path / "hr" / rock).mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng(number).integers(*levels, (64, 64)).astype(np.uint8)
            values = np.kron(values[::4, ::4], np.ones((4, 4), np.uint8))
            tifffile.imwrite(tmp_path / "hr" / rock / f"{number}.tif", values, photometric="minisblack")
    build(tmp_path / "hr", tmp_path / "set", BuildOptions(scale=2, tile=64, crop=32))
    split = open_split(tmp_path / "set", "train")
    bright, dark = trained_ranges([split], [[]])
    assert (bright["rock"], dark["rock"]) == ("bright", "dark")
    assert 90 < 255 * bright["low"] < 110 and 190 < 255 * bright["high"] < 210
    assert 15 < 255 * dark["low"] < 25 and 55 < 255 * dark["high"] < 65
    rows_of_dark = [i for i in range(len(split)) if split.rock(i) == "dark"]
    assert trained_ranges([split], [rows_of_dark]) == [bright]  # damaged images are not looked at


def test_images_of_the_trained_range_are_enlarged_without_a_word(weights, caplog):
    expected = super_resolve_grey(network(), SCENE)
    for values in (SCENE, SCENE * np.uint16(257)):
        found, warnings = upscale(weights, values, caplog)
        assert not any("in.tif: its grey levels" in text for text in warnings)
        assert np.abs(found / (257 if found.dtype == np.uint16 else 1) - expected).max() <= 1


@pytest.mark.parametrize("offset", [0, 32768])
def test_another_window_is_named_with_numbers_and_undone_by_window_and_auto(weights, caplog, offset):
    values = SCENE * np.uint16(16) + np.uint16(offset)
    _, warnings = upscale(weights, values, caplog)
    (note,) = [text for text in warnings if "its grey levels" in text]
    low, high = (16 * limit + offset for limit in robust_range(SCENE))
    assert f"its grey levels, {low:.0f} to {high:.0f} of 65535" in note and "(coal " in note
    assert f"--window auto, which is {offset + 0.0}:{offset + 4080.0} for this one" in note
    expected = 16.0 * super_resolve_grey(network(), SCENE) + offset
    for window in (f"{offset}:{offset + 4080}", "auto"):
        found, warnings = upscale(weights, values, caplog, window=window)
        assert found.dtype == np.uint16 and np.abs(found - expected).max() <= 16
        assert not any("its grey levels" in text for text in warnings)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_float_and_signed_images_are_mapped_in_and_back(weights, caplog, dtype):
    values = SCENE.astype(dtype) * 4 - 500
    with pytest.raises(srgan_dist.UserError, match=f"pixels are {np.dtype(dtype)}.*--window LOW:HIGH"):
        upscale(weights, values, caplog)
    found, _ = upscale(weights, values, caplog, window="-500:520")
    assert found.dtype == dtype
    assert np.abs(found - (4.0 * super_resolve_grey(network(), SCENE) - 500)).max() <= 4
    with pytest.raises(srgan_dist.UserError, match="PNG holds uint8 and uint16, not "):
        srgan_dist.super_resolve(weights, weights.parent / "in.tif", "x.png", window="auto", device="cpu")


def test_auto_is_one_window_for_a_folder_and_is_said_once(weights, caplog):
    folder = weights.parent / "in"
    folder.mkdir()
    for name, part in (("a", SCENE[:20]), ("b", SCENE[20:])):
        tifffile.imwrite(folder / f"{name}.tif", part * np.uint16(16), photometric="minisblack")
    with caplog.at_level(logging.INFO):
        made = srgan_dist.super_resolve(weights, folder, weights.parent / "out", window="auto", device="cpu")
    said = [record.getMessage() for record in caplog.records if ": values " in record.getMessage()]
    assert said == [
        f"{folder / 'a.tif'} and 1 more: values 0.0:4080.0 become black to white, the result is mapped back"
        " to uint16"
    ]
    for path, part in zip(made, (SCENE[:20], SCENE[20:]), strict=True):
        expected = 16.0 * super_resolve_grey(network(), part)
        assert np.abs(tifffile.imread(path) - expected).max() <= 16


def test_weights_of_a_window_map_float_images_by_themselves(tmp_path, caplog):
    save_generator(tmp_path / "g.safetensors", network(), {"window": "-500.0:520.0"})
    found, _ = upscale(tmp_path / "g.safetensors", SCENE.astype(np.float32) * 4 - 500, caplog)
    assert np.abs(found - (4.0 * super_resolve_grey(network(), SCENE) - 500)).max() <= 4


def test_weights_without_a_range_say_nothing_and_have_no_auto(tmp_path, caplog):
    save_generator(tmp_path / "g.safetensors", network(), {})
    _, warnings = upscale(tmp_path / "g.safetensors", SCENE * np.uint16(16), caplog)
    assert not any("its grey levels" in text for text in warnings)
    with pytest.raises(srgan_dist.UserError, match="do not say the grey range of their training data"):
        upscale(tmp_path / "g.safetensors", SCENE, caplog, window="auto")
    save_generator(tmp_path / "g.safetensors", network(), {"grey_ranges": [{"rock": "a", "low": 2}]})
    with pytest.raises(srgan_dist.UserError, match="grey_ranges=.* which are none"):
        upscale(tmp_path / "g.safetensors", SCENE, caplog)


def test_a_mean_that_sr_does_not_keep_is_named_with_numbers():
    ramp = np.arange(200, dtype=np.uint8).repeat(10)
    means = MeanComparison(np.uint8)
    means.add_lr(ramp)
    means.add_sr(ramp)
    assert means.note("a.tif") == []
    means = MeanComparison(np.uint8)
    for part in np.split(ramp, 4):  # as blocks come
        means.add_lr(part)
        means.add_sr(part + np.uint8(20))
    (note,) = means.note("a.tif")
    assert "a.tif: the mean grey level of SR is 119.5, that of LR 99.5 of 255" in note
    assert "they differ by 20.0, 10% of the range of LR" in note


def test_a_generator_that_shifts_the_mean_is_named_for_images_and_volumes(tmp_path, caplog):
    for ndim, values in ((2, SCENE // 2), (3, np.stack([texture(seed, 20, 24) // 2 for seed in range(6)]))):
        generator = network(2, ndim=ndim)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.zero_()
        save_generator(tmp_path / "g.safetensors", generator, {})  # paints the middle grey
        _, (note,) = upscale(tmp_path / "g.safetensors", values, caplog)
        assert f"of LR {values.mean():.1f} of 255" in note and "the mean grey level of SR is 12" in note


def test_weights_of_a_training_know_its_range_which_is_read_once(shards, tmp_path, monkeypatch):
    config = tiny_config(shards, tmp_path, adversarial=None, checkpoint_every=4)
    weights = tmp_path / "tiny" / "weights" / "pretrain.safetensors"
    srgan_dist.train(config)
    expected = trained_ranges([open_split(shards, "train")], [[]])
    assert srgan_dist.load_generator(weights, "cpu").header["grey_ranges"] == expected
    assert [own["rock"] for own in expected] == ["coal", "sandstone"]

    monkeypatch.setattr(training_run, "trained_ranges", lambda *_: pytest.fail("LR is read again"))
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step-00000006")
    weights.unlink()
    srgan_dist.train(config)  # from update 4 on
    assert srgan_dist.load_generator(weights, "cpu").header["grey_ranges"] == expected


def test_an_evaluation_on_another_grey_window_says_so_with_numbers(shards, tmp_path):
    for name, low, high in (("alike", 0.05, 0.95), ("other", 0.5, 0.56)):
        ranges = [{"rock": "chalk", "low": low, "high": high}]
        path = tmp_path / name / "weights" / "pretrain.safetensors"
        save_generator(path, network(4), {"grey_ranges": ranges})
        options = {"splits": ["valid"], "measures": "off", "samples": 0}
        table = srgan_dist.evaluate(tmp_path / name, shards, **options)
        report = (tmp_path / name / "eval" / "report.html").read_text()
        found = trained_ranges([open_split(shards, "valid")], [[]])
        assert len(found) == 2
        for own in found:
            words = (
                f"{own['rock']} {255 * own['low']:.0f} to {255 * own['high']:.0f} of 255 are the grey levels"
            )
            assert all((words in text) == (name == "other") for text in (table, report))
        assert ("trained on (chalk 128 to 143)" in table) == (name == "other")
