import numpy as np
import pytest

from conftest import texture
from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.figures import GAP, centre, figure_2, figure_3, panel, stack


def images(seed, height=60, width=72):
    hr = texture(seed, height, width)
    lr = downsample(hr, 4)
    bicubic = np.clip(upsample(lr, 4) / 255, 0, 1)
    return {"lr": lr / 255, "hr": hr / 255, "bicubic": bicubic, "pretrain": bicubic, "adversarial": hr / 255}


def test_panel_shows_five_columns_and_no_error_where_there_is_none():
    i = images(0)
    picture = panel(i["lr"], i["bicubic"], i["hr"], i["hr"], side=40)
    assert picture.size == (5 * 40 + 4 * GAP, 40 + 16)
    pixels = np.asarray(picture)[16:]
    sr, hr, error = (pixels[:, k * (40 + GAP) : k * (40 + GAP) + 40] for k in (2, 3, 4))
    assert np.array_equal(sr, hr) and len(np.unique(error.reshape(-1, 3), axis=0)) == 1
    assert hr.min() < 30 and hr.max() > 225  # stretched for display
    assert stack([picture, picture]).size == (picture.width, 2 * picture.height)


def test_centre_takes_what_there_is():
    assert centre(np.zeros((10, 30)), 20).shape == (10, 20)


def test_panel_of_a_blank_image():
    blank = np.zeros((40, 40))
    assert panel(blank[:10, :10], blank, blank, blank).size[1] == 56


@pytest.mark.parametrize("methods", [("bicubic", "pretrain", "adversarial"), ("bicubic", "adversarial"), ("bicubic", "pretrain")])
def test_figures_are_drawn_for_any_phases(tmp_path, methods):
    examples = {rock: {k: v for k, v in images(seed).items() if k in ("lr", "hr", *methods)} for seed, rock in enumerate(("coal", "sandstone"))}
    figure_2(tmp_path / "2.png", examples)
    figure_3(tmp_path / "3.png", {rock: {m: [20.0, 21.0, 23.0] for m in methods} for rock in examples})
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("2.png", "3.png"))
