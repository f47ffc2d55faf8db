"""report.html: what it says, in which order, and that it loads nothing and believes no name."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import look_at
from matplotlib.figure import Figure
from report_files import METHODS, entry, example, write_measures, write_run, write_scores

from srgan_dist.evaluation.html_report import write_report
from srgan_dist.evaluation.report_page import plots
from srgan_dist.evaluation.report_page.sources import OPTIONAL
from srgan_dist.evaluation.report_page.svg import method_style
from srgan_dist.evaluation.report_page.tables import decision
from srgan_dist.evaluation.report_page.training_curves import MAX_POINTS, read_training_curves
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.pieces = [("", {})], []
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags[-1][0] not in ("script", "style"):
            self.pieces.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


def report(tmp_path, *examples, written=OPTIONAL, facts=()):
    return write_report(tmp_path / "eval", tmp_path, examples, written, facts).read_text()


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
    for words in ("shards of coal", "seed: 3", "scipy", "9.9", "3 images, 1 source image, 1 plug"):
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
    assert "PSNR +1.00 dB against bicubic, closer to HR in grey levels" in text
    write_measures(tmp_path / "eval")  # of an earlier evaluation
    assert Page(report(tmp_path, example(), written=())).text == text


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


# Training curves


def test_curves_are_thinned_to_means_and_lines_that_are_no_records_are_left_out(tmp_path):
    count = 5 * MAX_POINTS
    lines = [json.dumps({"samples_seen": k, "loss/pixel": k / 2, "val/psnr": None}) for k in range(count)]
    odd = ["[]", "{}", "7", '{"samples_seen": "x"}', '{"samples_seen": 1, "a": NaN, "b": "x", "c": true}']
    odd.append('{"samples_seen": 2, "d": 1' + "0" * 400 + "}")
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("\n".join([*odd, *lines, '{"samples_seen": 9, "loss/pi']).encode() + b"\xff")
    curves = read_training_curves(path)
    assert list(curves) == ["loss/pixel"]
    x, y = curves["loss/pixel"]
    assert MAX_POINTS / 2 <= len(x) <= MAX_POINTS
    np.testing.assert_allclose(np.array(x) / 2, y)
    assert (x[0], x[-1]) == (3.5, count - 4.5)  # means of eight


def test_a_run_whose_last_record_was_cut_has_its_curves(tmp_path):
    write_scores(tmp_path / "eval")
    write_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"samples_seen": 999, "trai')
    assert "Gain over bicubic" in report(tmp_path)


# Words


def test_measures_of_length_are_in_micrometres(full):
    text = Page(full).text
    assert "chord length µm 0.500 0.300 −40.0 %" in text  # 0.2 px of 2.5 um
    assert "Euler density 1/µm² 0.0320" in text


def test_uncertainty_of_generators_with_noise_is_a_table(tmp_path):
    write_scores(tmp_path / "eval")
    found = {"samples": 8, "ratio": 0.52, "correlation": None, "spread": 1.5, "error": 3.0}
    calibration = {"valid": {"adversarial": {"coal": found}}}
    (tmp_path / "eval" / "calibration.json").write_text(json.dumps(calibration))
    text = Page(report(tmp_path)).text
    assert "valid phase 2 (SRGAN) coal 0.520 – 1.50 3.00 8" in text
    assert "Of a generator with noise" not in Page(report(tmp_path, written=())).text


def test_calibration_is_drawn_where_draws_were_made(tmp_path):
    write_scores(tmp_path / "eval")
    found = {"samples": 8, "ratio": 0.9, "bins": [[0.5, 0.75], [1.0, 1.25], [2.0, None]]}
    calibration = {"valid": {"adversarial": {"coal": found}}, "test": {"adversarial": {"coal": {"bins": []}}}}
    (tmp_path / "eval" / "calibration.json").write_text(json.dumps(calibration))
    page = Page(report(tmp_path))
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert [name for name in labels if "over their spread" in name] == [
        "error of the mean of draws over their spread, coal, valid"
    ]
    assert "Error over spread, of ten equal parts" in page.text
    figure = Figure()
    axis = figure.subplots()
    plots.calibration(axis, {"bicubic": [], "adversarial": [[0.5, 0.75], [1.0, 1.5]]}, 8)
    points, line = axis.lines[1], axis.lines[2]
    assert np.array_equal(points.get_xydata(), [[0.5, 0.75], [1.0, 1.5]])
    assert points.get_color() == method_style(1)["color"]
    assert line.get_xydata()[1] == pytest.approx([np.sqrt(8 / 9) * 1.5, 1.5])  # where the ratio is 1


def test_what_trained_the_weights_stands_beside_what_evaluated_them(full, tmp_path):
    text = Page(full).text
    assert "this evaluation data set shards of coal" in text
    assert (
        "the training starts, at update 0, 1500 2000 srgan_dist 0.2.0 0.2.0 git commit c0ffee –"
        " PyTorch 2.10 2.10 device NVIDIA H200 NVIDIA H200 ranks 8 4 sha256 of the data" in text
    )
    # A folder of weights knows them from their headers
    write_scores(tmp_path / "eval")
    network = SRResNet(SRResNetConfig(scale=4, num_blocks=1, num_filters=4))
    for phase in ("pretrain", "adversarial"):
        facts = {"phase": phase, "provenance": {"torch": "2.11", "device": "cpu", "commit": None}}
        save_generator(tmp_path / f"{phase}.safetensors", network, facts)
    assert "the training PyTorch 2.11 device cpu weights" in Page(report(tmp_path)).text
    for content in ("[", "[]", "{}", '{"starts": [1]}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(UserError, match=r"run.json is damaged \(.*\); restore it, or move it away"):
            report(tmp_path)


def test_scores_and_training_show_the_texture(full):
    text = Page(full).text
    assert "spectrum error over directions" in text and "2.00 1.25" in text
    labels = [svg["aria-label"].removesuffix(" during the training") for svg in Page(full).all("svg")]
    assert {
        "Spectrum errors",
        "Texture score",
        "Porosity of SR over HR, minus 1",
        "Interface of SR over HR",
        "Lattice excess above HR's own",
    } <= {*labels}


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
