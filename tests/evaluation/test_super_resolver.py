import logging

import numpy as np
import pytest
import torch
from conftest import texture

import srgan_dist
from srgan_dist.data.window import Window
from srgan_dist.evaluation.grey_range import robust_range
from srgan_dist.evaluation.super_resolve import super_resolve_pages
from srgan_dist.evaluation.super_resolver import SuperResolver
from srgan_dist.models.self_ensemble import SelfEnsemble
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.utils.errors import UserError


def resolver(scale=2, ndim=2, header=None):
    torch.manual_seed(0)
    config = SRResNetConfig(ndim=ndim, scale=scale, num_blocks=1, num_filters=4, tanh=False, init_std=None)
    generator = SRResNet(config).eval()
    torch.nn.init.constant_(generator.tail.weight, 0.4)
    return SuperResolver(generator, header)


def test_facts_of_the_generator_are_attributes():
    volumes = resolver(scale=3, ndim=3, header={"phase": "adversarial"})
    assert (volumes.scale, volumes.ndim, volumes.header) == (3, 3, {"phase": "adversarial"})
    assert isinstance(volumes.generator, SRResNet) and resolver().header == {}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_slice_keeps_its_dtype_and_is_what_the_network_computes(dtype):
    sr, lr, peak = resolver(), texture(0, 20, 24, dtype), np.iinfo(dtype).max
    with torch.no_grad():
        signed = sr.generator(torch.from_numpy(lr.astype(np.float32))[None, None] / peak * 2 - 1)[0, 0]
    expected = ((signed.numpy() + 1) / 2).clip(0, 1) * peak
    found = sr(lr)
    assert found.shape == (40, 48) and found.dtype == dtype and found.std() > 3
    assert np.abs(found - expected).max() <= 0.51


def test_pages_are_super_resolved_one_by_one():
    sr, pages = resolver(), np.stack([texture(seed, 20, 24) for seed in range(3)])
    found = sr(pages, tile=8)
    assert found.shape == (3, 40, 48)
    assert np.array_equal(found, list(super_resolve_pages(sr.generator, enumerate(pages), tile=8)))


def test_a_volume_is_super_resolved_along_all_axes():
    sr, volume = resolver(ndim=3), np.stack([texture(seed, 12, 14) for seed in range(9)])
    found = sr(volume)
    assert found.shape == (18, 24, 28) and found.dtype == np.uint8 and found.std() > 3
    assert np.abs(sr(volume, tile=4).astype(int) - found).max() <= 1


def test_byte_order_and_strides_do_not_matter():
    sr, lr = resolver(), texture(0, 20, 24, np.uint16)
    assert np.array_equal(sr(lr.astype(">u2")), sr(lr))
    assert np.array_equal(sr(np.repeat(lr, 2, axis=1)[:, ::2]), sr(lr))


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_is_taken_without_a_warning():
    sr, lr = resolver(), texture(0, 20, 24)
    expected = sr(lr)
    lr.setflags(write=False)
    assert np.array_equal(sr(lr), expected)


@pytest.mark.parametrize(
    "ndim, array, words",
    [
        (2, np.zeros((8, 9, 3), np.uint8), r"shape \(8, 9, 3\), as a colour image has; use one channel"),
        (2, np.zeros((8, 8), np.float32), "dtype float32; use uint8 or uint16.*numpy.round"),
        (2, np.zeros((8, 8), bool), "dtype bool; use uint8"),
        (
            2,
            np.zeros((1, 1, 8, 8), np.uint8),
            r"shape \(1, 1, 8, 8\); use \[H, W\] or \[pages, H, W\] with a 2-D",
        ),
        (3, np.zeros((8, 8), np.uint8), r"shape \(8, 8\); use \[D, H, W\] with a 3-D generator"),
        (2, np.zeros(8, np.uint8), r"shape \(8,\); use"),
        (2, np.zeros((0, 8, 8), np.uint8), r"shape \(0, 8, 8\), which holds no pixels"),
        (2, [[0.5]], "dtype float64"),
    ],
)
def test_arrays_that_are_no_grey_levels_are_refused(ndim, array, words):
    with pytest.raises(UserError, match=f"^the array has {words}"):
        resolver(ndim=ndim)(array)


def test_a_tile_without_pixels_is_refused():
    with pytest.raises(UserError, match="tile=0 must be a whole number, 1 or more"):
        resolver()(np.zeros((8, 8), np.uint8), tile=0)


# Grey levels


def notes_of(caplog, words):
    return [text for text in caplog.messages if words in text]


def test_another_grey_window_is_named_once_with_numbers_and_the_way_out(caplog):
    scene = texture(3, 40, 44)
    low, high = robust_range(scene)
    ranges = [{"rock": "coal", "low": low / 255, "high": high / 255}]
    sr = resolver(header={"grey_ranges": ranges, "window": "-500.0:1500.0"})
    sr(scene)
    assert notes_of(caplog, "its grey levels") == []
    other = scene * np.uint16(16) + np.uint16(32768)
    for array in (other, np.stack([other, other]), other):
        sr(array)
    (note,) = notes_of(caplog, "its grey levels")
    assert f"the array: its grey levels, {16 * low + 32768:.0f} to {16 * high + 32768:.0f} of 65535" in note
    assert f"training images (coal {257 * low:.0f} to {257 * high:.0f})" in note
    assert "(values -500.0:1500.0 of its volumes)" in note and "numpy.round(65535 * numpy.clip(" in note
    assert note.endswith("32768.0:36848.0 gives this array their range")
    caplog.clear()
    resolver(header={"grey_ranges": ranges})(Window(32768, 36848).to_grey_levels(other, np.uint16))
    assert notes_of(caplog, "its grey levels") == []
    with pytest.raises(UserError, match=r"grey levels of the training images \(values -500.0:1500.0 of its"):
        sr(other.astype(np.float32))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_mean_that_sr_does_not_keep_is_named_once_with_numbers(caplog, ndim):
    sr = resolver(ndim=ndim)
    with torch.no_grad():
        for parameter in sr.generator.parameters():
            parameter.zero_()  # paints the middle grey
    volume = np.stack([texture(seed, 20, 24) // 2 for seed in range(4)])
    with caplog.at_level(logging.WARNING):
        sr(np.full_like(volume, 128))
        assert caplog.messages == []
        sr(volume)
        sr(volume)
    (note,) = caplog.messages
    assert f"the array: the mean grey level of SR is 128.0, that of LR {volume.mean():.1f} of 255" in note


# The hub


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_a_saved_folder_is_loaded_again_with_its_facts(tmp_path, self_ensemble):
    ranges = [{"rock": "coal", "low": 0.1, "high": 0.7}]
    facts = {"phase": "adversarial", "grey_ranges": ranges, "config": {"data": {"path": "/home/jane/rocks"}}}
    sr, lr = resolver(header=facts), texture(3, 20, 24)
    chosen = SuperResolver(SelfEnsemble(sr.generator), facts) if self_ensemble else sr
    chosen.save_pretrained(tmp_path / "new" / "rocks")
    found = srgan_dist.from_pretrained(tmp_path / "new" / "rocks", "cpu")
    assert np.array_equal(found(lr), sr(lr))
    assert found.header == facts | {"config": {"data": {"path": "rocks"}}}
    with pytest.raises(UserError, match="rocks exists and is left as it is"):
        sr.save_pretrained(tmp_path / "new" / "rocks")
