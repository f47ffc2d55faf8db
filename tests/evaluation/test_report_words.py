"""Numbers and units as report.html writes them."""

import pytest

from srgan_dist.evaluation.report_page.words import number, percent, physical


@pytest.mark.parametrize(
    "value, text",
    [
        (0.12345, "0.123"),
        (-12345.6, "−12,346"),
        (1.234e-5, "1.23×10⁻⁵"),
        (0, "0"),
        (1234567, "1,234,567"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_three_digits_and_a_dash_where_there_is_none(value, text):
    assert number(value) == text


def test_shares_are_signed_percentages():
    assert [percent(x) for x in (0.1234, -0.5, 12.3, None)] == [
        "+12.3\xa0%",
        "−50.0\xa0%",
        "+1,230\xa0%",
        "–",
    ]


@pytest.mark.parametrize(
    "unit, ndim, factor, name",
    [
        ("px", 2, 2.0, "µm"),
        ("1/px^n", 3, 1 / 8, "1/µm³"),
        ("px^2", 3, 4e-12 / 9.8692e-16, "mD"),
        ("dB", 2, 1.0, "dB"),
        ("", 2, 1.0, ""),
    ],
)
def test_units_are_micrometres_where_the_voxel_size_is_known(unit, ndim, factor, name):
    assert physical(unit, ndim, 2.0) == (pytest.approx(factor), name)
    assert physical(unit, ndim) == (1.0, unit.replace("^n", "³").replace("^2", "²"))
