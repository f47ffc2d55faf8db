"""report.html: what it says, in which order, and that it loads nothing and believes no name."""

import json
import re
from itertools import combinations

import numpy as np
import pytest
from browser import look_at
from report_files import (
    METHODS,
    Page,
    entry,
    example,
    report,
    write_measures,
    write_run,
    write_scores,
)

from srgan_dist.evaluation.report_page.pictures import OVERLAY, overlays
from srgan_dist.evaluation.report_page.tables import decision
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report of everything."""
    folder = tmp_path_factory.mktemp("full")
    write_scores(folder / "eval")
    write_measures(folder / "eval")
    write_run(folder)
    return report(folder, example(), example(split="test"), facts=[("data set", "shards of coal")])


def test_verdicts_in_words_come_first_and_every_part_follows(full):
    page = Page(full)
    sections = [attributes["id"] for attributes in page.all("section")]
    order = "verdicts claims scores crops psnr pores measures cross curves texture training provenance"
    assert sections == order.split()
    assert page.text.index("Verdict of adversarial.") < page.text.index("Scores Means over whole images")
    links = [a["href"].removeprefix("#") for a in page.all("a")]
    assert links == sections
    titles = [tag for tag, _ in page.tags].count("svg")
    # per split a box plot, the bias, 3 cross plots (no Euler density is known); 7 curves; 8 of the training
    assert titles == 2 * (1 + 1 + 3) + 7 + 8
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    for words in (
        "1 plug 12 blocks",
        "shards of coal",
        "seed: 3",
        "scipy",
        "9.9",
        "3 images, 1 source image, 1 plug",
    ):
        assert words in page.text


def test_what_a_verdict_rests_on_is_decided_by_its_interval(full):
    text = Page(full).text
    assert "porosity phase 1 (SRCNN) −15.0 % −16.0 to −14.0 % closer to HR" in text
    assert "porosity phase 2 (SRGAN) +15.0 % +14.0 to +16.0 % further from HR" in text


def test_a_missing_interval_says_why():
    assert decision(None, None) == "too few units"
    assert decision(None, "block") == "not defined in some resamples"
    assert decision([-0.2, 0.1], "block") == "undecided"


def test_claims_say_what_each_phase_improves_and_what_that_means(full):
    text = Page(full).text
    text = text[text.index("What the phases improve and worsen") : text.index("Scores Means over")]
    assert "phase 1 (SRCNN) against bicubic phase 2 (SRGAN) against bicubic phase 2 (SRGAN) against" in text
    row = text[text.index(" porosity ") :]
    assert row.index("Pore volume, and with it fluid in place") < row.index("closer to HR")
    assert "3 images, 1 source image, 1 plug" in text and "lattice" not in text


def test_crops_have_scores_and_scale_bars(full):
    page = Page(full)
    pictures = page.all("img")
    # per split: the whole image, LR, three methods, HR; three errors; HR and three overlays
    assert len(pictures) == 2 * (6 + 3 + 4)
    assert all(picture["src"].startswith("data:image/png;base64,") and picture["alt"] for picture in pictures)
    assert page.text.count("28.25 dB, SSIM 0.701") == 6
    assert page.text.count(" 50 µm") == 2 * (6 + 4) and page.text.count("2.50 µm per HR pixel") == 2


def check_loads_nothing(source):
    page = Page(source)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\((?!#)", source)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith(("#", "data:")), (tag, value)
    assert {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "form", "base"} == set()
    assert len(page.all("script")) == 1 and page.all("script") == [{}]
    policy = page.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    return page


def test_the_page_loads_nothing(full):
    check_loads_nothing(full)


HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x_{$"


def test_names_of_strangers_are_text_and_nothing_else(tmp_path):
    methods = ("bicubic", HOSTILE)
    names = {"rocks": (HOSTILE,), "splits": ("valid",), "methods": methods}
    write_scores(tmp_path / "eval", **names)
    raw = {"porosity": entry("bicubic", unit=HOSTILE, methods=methods), HOSTILE: entry("bicubic")}
    write_measures(
        tmp_path / "eval",
        **names,
        verdicts={"valid": {HOSTILE: {"bicubic": HOSTILE}}},
        thresholds={HOSTILE: {"refused": HOSTILE}},
        versions={HOSTILE: HOSTILE},
        per_split={"valid": {HOSTILE: {m: {"raw": raw, "median": raw} for m in methods}}},
    )
    write_run(tmp_path)
    (tmp_path / "config.yaml").write_text("name: </pre><script>alert(1)</script>")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"samples_seen": 1, f"loss/{HOSTILE}": 0.5}))
    (tmp_path / "run.json").write_text(
        json.dumps({"starts": [{"device": HOSTILE, "data_sha256": [HOSTILE]}]})
    )
    source = report(tmp_path, example(HOSTILE, key=HOSTILE, methods=methods), facts=[(HOSTILE, "\udcff")])
    page = check_loads_nothing(source)
    assert all(picture["src"].startswith("data:image/png") for picture in page.all("img"))
    assert "</pre><script>alert(1)</script>" in page.text


def test_without_measures_the_page_says_how_to_get_them(tmp_path):
    write_scores(tmp_path / "eval")
    write_run(tmp_path)
    text = Page(report(tmp_path, example())).text
    assert "srgan-dist evaluate RUN SHARDS --measures" in text and "There are no rock measures" in text
    verdicts = text[text.index("Mean scores, in numbers") : text.index("Scores Means over")]
    assert "PSNR +1.00 dB against bicubic; spectrum error 2.00 against 2.00." in verdicts
    assert not re.search("closer to HR in|further from HR|nearer", verdicts)  # no interval, no word
    write_measures(tmp_path / "eval")  # of an earlier evaluation
    again = Page(report(tmp_path, example(), written=())).text
    assert again.partition(" UTC ")[2] == text.partition(" UTC ")[2]  # maybe a minute later


def test_a_folder_of_weights_has_no_training_and_the_config_of_its_headers(tmp_path):
    write_scores(tmp_path / "eval")
    network = SRResNet(SRResNetConfig(scale=4, num_blocks=1, num_filters=4))
    facts = {"phase": "pretrain", "samples_seen": 320, "config": {"name": "of the header"}}
    save_generator(tmp_path / "pretrain.safetensors", network, facts)
    text = Page(report(tmp_path)).text
    assert "No metrics.jsonl lies beside the weights" in text and '"name": "of the header"' in text
    assert "pretrain.safetensors phase 1 (SRCNN) 320" in text


def test_values_and_intervals_that_there_are_not_and_refused_thresholds_read_well(tmp_path):
    write_scores(tmp_path / "eval")
    refused = {"coal": {"refused": "two classes are not enough; give one with --threshold coal=0.3"}}
    write_measures(tmp_path / "eval", interval=False, thresholds=refused)
    measures = json.loads((tmp_path / "eval" / "measures.json").read_text())
    nothing = dict.fromkeys(("value", "hr", "bias", "interval", "level"))
    of_coal = measures["per_split"]["valid"]["coal"]
    of_coal["pretrain"]["raw"]["porosity"] |= nothing
    of_coal["bicubic"]["raw"]["dice"] = entry("bicubic", bias=-0.1, bias_kind="absolute", value=0.9, hr=1.0)
    (tmp_path / "eval" / "measures.json").write_text(json.dumps(measures))
    text = Page(report(tmp_path, example())).text
    assert "coal none two classes are not enough; give one with --threshold coal=0.3" in text
    assert "No overlay: coal has no threshold." in text
    assert "too few independent units for intervals, so nothing is decided" in text
    assert "porosity 0.200 0.120 −40.0 % – – 0.210 +5.0 %" in text
    assert re.findall(r"\b(?:None|nan|null)\b.{9}", text) == []
    write_measures(tmp_path / "eval", thresholds={"coal": None}, voxel_size_um={"coal": None})
    text = Page(report(tmp_path, example(voxel_size_um=None))).text
    assert "coal none no threshold" in text and "20 px" in text


@pytest.mark.parametrize(
    "name, content",
    [("measures.json", b"{"), ("measures.json", b"[1]"), ("curves.npz", b"PK"), ("scores.json", b"")],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    write_scores(tmp_path / "eval")
    write_measures(tmp_path / "eval")
    (tmp_path / "eval" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged .*write it again with: srgan-dist evaluate"):
        report(tmp_path)


def test_without_scores_there_is_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="holds no scores.json.*srgan-dist evaluate RUN SHARDS --out DIR"):
        report(tmp_path)


# Overlays and words


def test_an_overlay_counts_pores_that_agree_are_missed_and_are_invented():
    shown = example(methods=("bicubic",), size=(40, 40))
    hr, sr = np.ones((40, 40)), np.ones((40, 40))
    hr[:, :20], sr[:10, 10:30] = 0, 0
    shown.images.update(hr=hr, bicubic=sr)
    for bright in (False, True):
        ((url, shares),) = overlays(shown, 0.5, bright).values()
        assert url.startswith("data:image/png") and shares["missed"] == pytest.approx(
            0.4375 if not bright else 0.0625
        )
        assert shares["agree"] == pytest.approx(0.0625 if not bright else 0.4375)
        assert shares["invented"] == pytest.approx(0.0625 if not bright else 0.4375)


# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_overlays_are_apart_for_all_kinds_of_colour_vision(vision):
    from skimage.color import rgb2lab

    linear = (np.array(list(OVERLAY.values())) / 255) ** 2.2
    seen = (linear @ np.array(VISION[vision]).T).clip(0, 1) ** (1 / 2.2)
    lab = rgb2lab(seen[None])[0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 40


def test_measures_of_length_are_in_micrometres(full):
    text = Page(full).text
    assert "chord length µm 0.500 0.300 −40.0 %" in text  # 0.2 px of 2.5 um
    assert "Euler density 1/µm² 0.0320" in text


# In a browser


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_it_without_loads_errors_or_a_page_wider_than_the_window(full, tmp_path, width):
    found = look_at(full, width, tmp_path)
    assert (found["errors"], found["blocked"], found["loads"]) == ([], [], [])
    assert found["width"] == width and found["scrollWidth"] <= width
    assert found["text"] > 8, "text in plots is too small to read"
    assert found["rising"] == ["28.00", "29.00", "30.00"] and found["falling"] == found["rising"][::-1]


@pytest.mark.chromium
def test_the_browser_would_tell_of_loads_and_errors(full, tmp_path):
    bad = full.replace(
        "<main>", '<main><img src="https://example.org/x.png"><p style="min-width: 3000px">x</p>'
    )
    found = look_at(bad, 420, tmp_path)
    assert found["blocked"] == ["https://example.org/x.png"] and found["scrollWidth"] > 2000


def test_methods_keep_their_order_and_colours(full):
    legend = re.search(r'<p class="legend">(.*?)</p>', full)[1]
    assert re.findall(r"--method-(\d)", legend) == [str(k) for k in range(len(METHODS))]
