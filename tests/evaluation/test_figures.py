import io

import numpy as np
import pytest
from conftest import texture

from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.evaluation.figures import (
    GAP,
    TITLES,
    centre,
    figure_2,
    figure_3,
    label,
    middle_slices,
    panel,
    stack,
)


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


def test_centre_of_an_image_smaller_than_the_crop_is_the_image():
    assert centre(np.zeros((10, 30)), 20).shape == (10, 20)


def test_middle_slices_of_a_volume_are_its_three_orthogonal_planes():
    volume = np.arange(4 * 6 * 10).reshape(4, 6, 10)
    slices = middle_slices(volume)
    assert list(slices) == ["xy", "xz", "yz"]
    for plane, expected in zip(slices.values(), (volume[2], volume[:, 3], volume[:, :, 5])):
        assert np.array_equal(plane, expected)
    # of LR and HR they are the same plane of the rock
    lr = np.random.default_rng(0).random((3, 4, 5))
    hr = np.kron(lr, np.ones((2, 2, 2)))
    for low, high in zip(middle_slices(lr).values(), middle_slices(hr).values()):
        assert np.array_equal(np.kron(low, np.ones((2, 2))), high)


def test_an_image_is_its_own_middle_slice_and_keeps_its_name():
    image = texture(0, 20, 24)
    assert list(middle_slices(image)) == [""] and middle_slices(image)[""] is image
    assert (label("coal", ""), label("coal", "xz")) == ("coal", "coal xz")


def test_the_plane_of_a_slice_is_in_the_caption_of_its_panel():
    i = images(0)
    plain, named = (
        np.asarray(panel(i["lr"], i["bicubic"], i["hr"], i["hr"], plane, side=40)) for plane in ("", "xy")
    )
    assert np.array_equal(plain[16:], named[16:]) and not np.array_equal(plain[:16], named[:16])


def test_panel_of_a_blank_image():
    blank = np.zeros((40, 40))
    assert panel(blank[:10, :10], blank, blank, blank).size[1] == 56


@pytest.mark.parametrize(
    "methods", [("bicubic", "pretrain", "adversarial"), ("bicubic", "adversarial"), ("bicubic", "pretrain")]
)
def test_figure_2_shows_every_method_and_its_error_on_one_scale(methods):
    examples = {
        rock: {k: v for k, v in images(seed).items() if k in ("lr", "hr", *methods)}
        for seed, rock in enumerate(("coal", "sandstone"))
    }
    figure = figure_2(examples)
    names = [TITLES.get(name, name) for name in methods]
    rows = np.array(figure.axes[: 4 * (len(methods) + 3)]).reshape(4, -1)
    assert [axis.get_title() for axis in rows[0]] == ["coal", "LR", *names, "HR"]
    assert [axis.get_title() for axis in rows[3]] == [
        "",
        "",
        *(f"|{name.split(' (')[0]} - HR|" for name in names),
        "",
    ]
    for rock, axes in zip(examples.values(), rows[1::2]):
        errors = [axis.images[0] for axis in axes[2:-1]]
        assert {e.get_clim() for e in errors} == {
            (0, np.percentile(np.abs(rock["bicubic"] - rock["hr"]), 99))
        }
        for error, method in zip(errors, methods):
            np.testing.assert_allclose(error.get_array(), np.abs(rock[method] - rock["hr"])[:, :])
    figure.savefig(io.BytesIO(), format="png")


def test_figure_3_has_a_box_of_each_methods_psnr_per_rock():
    values = {
        "coal": {"bicubic": [20.0, 21.0, 24.0], "wide": [22.0, 22.5, 23.0]},
        "sandstone": {"bicubic": [20.0], "wide": [22.0]},
    }
    figure = figure_3(values)
    assert [axis.get_title() for axis in figure.axes] == ["coal (3 images)", "sandstone (1 image)"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["bicubic", "wide"]
    medians = [
        line
        for line in figure.axes[0].lines
        if line.get_color() == "black" and len(set(line.get_ydata())) == 1
    ]
    assert {line.get_ydata()[0] for line in medians} >= {21.0, 22.5}
