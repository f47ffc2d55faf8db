import io

import numpy as np
import pytest
from conftest import texture

from srgan_dist.data.degradation import downsample, upsample
from srgan_dist.evaluation import figures
from srgan_dist.evaluation.examples import Example
from srgan_dist.evaluation.figures import (
    GAP,
    MAX_EXAMPLES,
    PLANES,
    TITLES,
    centre,
    figure_2,
    figure_3,
    label,
    middle_slices,
    name_plane,
    panel,
    scale_bar,
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
    sr, hr, error = (pixels[:20, k * (40 + GAP) : k * (40 + GAP) + 40] for k in (2, 3, 4))
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


@pytest.mark.parametrize(
    "record, names",
    [
        ({"corner": [100, 20, 30]}, ["xy, z = 102", "xz, y = 23", "yz, x = 34"]),
        ({}, ["xy, z = 2", "xz, y = 3", "yz, x = 4"]),  # of the sample, in sets of others
        ({"corner": [1, 2]}, ["xy, z = 2", "xz, y = 3", "yz, x = 4"]),
    ],
)
def test_a_slice_is_named_by_its_axis_and_its_index_in_the_file(record, names):
    assert [name_plane(plane, record, (0, 2, 4), (4, 3, 1)) for plane in PLANES] == names
    assert name_plane("", record, (0, 2), (4, 3)) == ""


@pytest.fixture
def captions(monkeypatch):
    """The texts that panels draw."""
    found, draw = [], figures.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        figures.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest, **options: (
            found.append(text),
            draw(self, place, text, *rest, **options),
        ),
    )
    return found


def test_the_name_of_a_slice_is_in_the_caption_of_its_panel(captions):
    i = images(0)
    panel(i["lr"], i["bicubic"], i["hr"], i["hr"], "xy, z = 102", side=40)
    assert captions[0] == "LR xy, z = 102" and "z = " not in "".join(captions[1:])


def test_a_panel_has_a_scale_bar_of_the_right_length_and_the_psnr_of_its_crops(captions):
    i = images(0)
    picture = np.asarray(panel(i["lr"], i["bicubic"], i["hr"], i["hr"], side=40, voxel_size_um=2.5))
    error = np.mean((centre(i["bicubic"], 40) - centre(i["hr"], 40)) ** 2)
    psnr = -10 * np.log10(error)
    assert captions[:4] == ["LR", f"bicubic {psnr:.2f} dB", "SR 100.00 dB", "HR"]
    assert captions[-1] == "20 um"
    row = picture[-5, -40:]  # through the bar: 8 pixels of 2.5 um, within a frame
    assert (row[5:12] == 255).all() and (row[[4, 12]] == 0).all()


def test_panel_of_a_blank_image():
    blank = np.zeros((40, 40))
    assert panel(blank[:10, :10], blank, blank, blank).size[1] == 56


def example(
    seed=0, methods=("bicubic", "pretrain"), split="valid", rock="coal", voxel_size_um=None, plane=""
):
    of_image = images(seed)
    scores = {name: {"psnr": 20.0 + k, "ssim": 0.5} for k, name in enumerate(methods)}
    shown = {name: of_image[name] for name in ("lr", *methods, "hr")}
    return Example(split, rock, plane, f"{rock}_0", shown, scores, voxel_size_um)


@pytest.mark.parametrize(
    "methods", [("bicubic", "pretrain", "adversarial"), ("bicubic", "adversarial"), ("bicubic", "pretrain")]
)
def test_figure_2_shows_every_method_and_its_error_on_one_scale(methods):
    examples = [example(0, methods), example(1, methods, "test", "sandstone", 2.5, "xz, y = 7")]
    figure = figure_2(examples)
    names = [TITLES.get(name, name) for name in methods]
    rows = np.array(figure.axes[: 4 * (len(methods) + 3)]).reshape(4, -1)
    assert [axis.get_title() for axis in rows[0]] == ["coal\nvalid", "LR", *names, "HR"]
    assert rows[2][0].get_title() == "sandstone xz, y = 7\ntest, 2.5 \u00b5m per HR pixel"
    assert [axis.get_title() for axis in rows[3]] == [
        "",
        "",
        *(f"|{name.split(' (')[0]} - HR|" for name in names),
        "",
    ]
    for of_example, axes in zip(examples, rows[1::2]):
        of_images = of_example.images
        errors = [axis.images[0] for axis in axes[2:-1]]
        assert {e.get_clim() for e in errors} == {
            (0, np.percentile(np.abs(of_images["bicubic"] - of_images["hr"]), 99))
        }
        for error, method in zip(errors, methods):
            np.testing.assert_allclose(error.get_array(), np.abs(of_images[method] - of_images["hr"]))
    figure.savefig(io.BytesIO(), format="png")


def texts_of(axis):
    return [text.get_text() for text in axis.texts]


def test_crops_of_figure_2_have_scale_bars_and_the_scores_of_the_whole_image():
    axes = figure_2([example(), example(1, voxel_size_um=2.5)]).axes
    full, lr, bicubic, pretrain, hr = axes[:5]
    assert texts_of(full) == texts_of(lr) == texts_of(hr) == ["20 px"]
    assert texts_of(bicubic) == ["20 px", "20.00 dB, SSIM 0.500"] and "21.00 dB, SSIM 0.500" in texts_of(
        pretrain
    )
    # 72 HR pixels, 18 of LR, show the same 180 um
    bars = [axis.patches[-1].get_width() / axis.images[0].get_array().shape[1] for axis in axes[10:15]]
    assert bars == pytest.approx([20 / 72] * 5) and texts_of(axes[10]) == ["50 \u00b5m"]


@pytest.mark.parametrize(
    "width, voxel, expected",
    [
        (240, None, (50, "50 px")),
        (2, None, (1, "1 px")),
        (240, 2.5, (80, "200 \u00b5m")),
        (500, 10.0, (200, "2 mm")),
        (100, 0.02, (25, "500 nm")),
        (240, float("nan"), (50, "50 px")),
        (240, -3.0, (50, "50 px")),
    ],
)
def test_a_scale_bar_is_a_round_length_below_four_tenths_of_the_width(width, voxel, expected):
    length, text = scale_bar(width, voxel)
    assert (length, text) == (pytest.approx(expected[0]), expected[1])


def test_error_maps_of_figure_2_have_the_scale_bars_of_their_crops():
    axes = figure_2([example(voxel_size_um=2.5)]).axes
    assert [texts_of(axis) for axis in axes[5:10]] == [[], [], ["50 \u00b5m"], ["50 \u00b5m"], []]


def test_boxes_show_their_images_as_points_few_in_a_column_and_many_spread():
    values = {"bicubic": list(range(10)), "wide": list(range(100)), "all": list(range(10**4))}
    axis = figure_3({"valid": {"coal": values}}).axes[0]
    points = [line for line in axis.lines if line.get_marker() == "."]
    few, many, most = (line.get_xdata() for line in points)
    assert [len(line.get_ydata()) for line in points] == [10, 100, 300]
    assert set(few) == {1} and len(set(many)) == 100 and 1.7 < min(many) < max(many) < 2.3
    assert {min(points[2].get_ydata()), max(points[2].get_ydata())} == {0, 9999} and len(most) == 300


def test_names_that_look_like_formulas_are_drawn_as_they_are():
    figure = figure_2([example(rock="$\\frac{1$")])
    figure.savefig(io.BytesIO(), format="png")
    assert figure.axes[0].get_title() == "$\\frac{1$\nvalid"
    figure_3({"valid": {"$x^$": {"$m_$": [1.0, 2.0]}}}).savefig(io.BytesIO(), format="png")


def test_figure_2_leaves_out_what_no_picture_can_hold():
    figure = figure_2([example()] * (MAX_EXAMPLES + 3))
    assert figure.get_supxlabel() == "3 further examples are left out"
    assert len(figure.axes) == MAX_EXAMPLES * 2 * 5


def test_figure_3_has_a_box_of_each_methods_psnr_per_rock_and_split():
    values = {
        "valid": {
            "coal": {"bicubic": [20.0, 21.0, 24.0], "wide": [22.0, 22.5, 23.0]},
            "sandstone": {"bicubic": [20.0], "wide": [22.0]},
        },
        "test": {"coal": {"bicubic": [25.0], "wide": [26.0]}},
    }
    figure = figure_3(values)
    titles = ["coal, valid (3 images)", "sandstone, valid (1 image)", "coal, test (1 image)", ""]
    assert [axis.get_title() for axis in figure.axes] == titles
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["bicubic", "wide"]
    assert not figure.axes[3].axison
    medians = [
        line
        for line in figure.axes[0].lines
        if line.get_color() == "black" and len(set(line.get_ydata())) == 1
    ]
    assert {line.get_ydata()[0] for line in medians} >= {21.0, 22.5}
