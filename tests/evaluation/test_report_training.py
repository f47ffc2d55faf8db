"""The report of the training behind the weights: its curves, what made it, the calibration of its noise."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_files import Page, report, write_run, write_scores

from srgan_dist.evaluation.report_page import plots
from srgan_dist.evaluation.report_page.svg import method_style
from srgan_dist.evaluation.report_page.training_curves import MAX_POINTS, read_training_curves
from srgan_dist.models.srresnet import SRResNet, SRResNetConfig
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError

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


# Uncertainty and provenance


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


def test_what_trained_the_weights_stands_beside_what_evaluated_them(tmp_path):
    write_scores(tmp_path / "run" / "eval")
    write_run(tmp_path / "run")
    text = Page(report(tmp_path / "run", facts=[("data set", "shards of coal")])).text
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


def test_scores_and_training_show_the_texture(tmp_path):
    write_scores(tmp_path / "eval")
    write_run(tmp_path)
    page = Page(report(tmp_path))
    assert "spectrum error over directions" in page.text and "2.00 1.25" in page.text
    labels = [svg["aria-label"].removesuffix(" during the training") for svg in page.all("svg")]
    assert {
        "Spectrum errors",
        "Texture score",
        "Porosity of SR over HR, minus 1",
        "Interface of SR over HR",
        "Lattice excess above HR's own",
    } <= {*labels}
