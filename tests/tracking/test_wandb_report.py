"""A report of runs for wandb names what the trainer logs, all of it and nothing else."""

import json
import os
import sys
from dataclasses import replace

import pytest
from commands import run_fresh
from conftest import tiny_config
from trackers import records, tracker
from wandb_stub import offline_records, serving

from srgan_dist.cli.report import main
from srgan_dist.tracking.wandb_report import read_run, report_of, specification
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("wandb_environment")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """The directory of a training of both phases, recorded offline."""
    folder = tmp_path_factory.mktemp("reported")
    train(tiny_config(shards, folder, device="cpu", tracking={"wandb": "offline"}))
    return folder / "tiny"


def logged_by(run):
    """Return the names of wandb's local record of a run: numbers, tables and images of its history, and the
    summary.
    """
    (session,) = offline_records(run)
    items = [item for record in session for item in record.history.item]
    items += [item for record in session for item in record.summary.update]
    names = {item.key or "/".join(item.nested_key) for item in items}
    media = {name.rsplit("/", 1)[0] for name in names if name.endswith("/_type")}
    return names | media


def panels_of(text):
    """Return [(title of the section, view type, settings)] of the panels of a specification."""
    found, heading = [], None
    for block in json.loads(text)["blocks"]:
        if block["type"] == "heading":
            heading = block["children"][0]["text"]
        for panel in block.get("metadata", {}).get("panelBankSectionConfig", {}).get("panels", []):
            found.append((heading, panel["viewType"], panel["config"]))
    return found


def names_in(panels):
    return [name for *_, own in panels for name in (*own.get("metrics", []), *own.get("mediaKeys", []))]


def test_every_panel_shows_what_is_logged_and_everything_logged_has_a_panel(run):
    text = specification(report_of([read_run(run)]))
    panels = panels_of(text)
    shown = names_in(panels)
    assert len(shown) == len(set(shown)) and set(shown) <= logged_by(run)
    assert {name for record in records(run) for name in record} - {"samples_seen", "time"} <= set(shown)
    assert {"samples", "best/adversarial/score", "val/psnr_gain/coal", "val/rock/porosity_bias/coal"} <= {
        *shown
    }
    assert {own["xAxis"] for _, kind, own in panels if kind == "Run History Line Plot"} == {"samples_seen"}
    assert "Other records" not in {heading for heading, *_ in panels}
    for phase in ("pretrain", "adversarial"):
        for table in (f"scores/{phase}", f"measures/{phase}"):
            assert f'"{table}"' in text and table in logged_by(run)


def test_a_rock_of_any_name_and_numbers_of_an_extension_have_panels(tmp_path):
    tracked = tracker(tmp_path, "offline")
    numbers = {"val/psnr_gain/Ketton 1.2": 1.0, "my/number": 2.0, "test/psnr": 3.0, "test/mine": 4.0}
    tracked.log(numbers, 16)
    tracked.finish()
    (tmp_path / "config.yaml").write_text("name: tiny\n")
    panels = panels_of(specification(report_of([read_run(tmp_path)])))
    titles = {name: own["chartTitle"] for *_, own in panels for name in own.get("metrics", [])}
    assert titles == {
        "val/psnr_gain/Ketton 1.2": "PSNR gain over bicubic, per rock",
        "my/number": "my/number",
        "test/psnr": "PSNR",
        "test/mine": "test/mine",
    }


def test_the_report_shows_the_named_runs_alone(run, tmp_path, capsys):
    main([str(run), "--json", str(tmp_path / "report.json"), "--title", "Two phases"])
    assert "project srgan_dist of wandb" in capsys.readouterr().out
    text = (tmp_path / "report.json").read_text()
    grids = [block for block in json.loads(text)["blocks"] if block["type"] == "panel-grid"]
    (session,) = offline_records(run)
    (identity,) = [record.run.run_id for record in session if record.WhichOneof("record_type") == "run"]
    for grid in grids:
        (runset,) = grid["metadata"]["runSets"]
        (chosen,) = runset["filters"]["filters"]
        assert chosen["key"] == {"section": "run", "name": "name"} and chosen["value"] == [identity]
    assert len(grids) > 8


def report_command(run, *options, **environment):
    return run_fresh(sys.executable, "-m", "srgan_dist", "report", run, *options, **environment)


def test_a_report_is_saved_where_the_runs_are_with_the_key_of_the_environment(run):
    (session,) = offline_records(run)
    (identity,) = [record.run.run_id for record in session if record.WhichOneof("record_type") == "run"]
    with serving() as stub:
        absent = report_command(run, WANDB_BASE_URL=stub.address)
        stub.rows[identity] = []  # as after `wandb sync`
        done = report_command(run, WANDB_BASE_URL=stub.address)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(
            f"{stub.address}/lab/srgan_dist/reports/Super-resolution-of-rocks:-tiny--"
        )
    assert absent.returncode == 1
    assert f"error: lab/srgan_dist of wandb has no run {identity}; send it with `wandb sync" in absent.stderr
    (saved,) = stub.reports
    assert (saved["entityName"], saved["projectName"]) == ("lab", "srgan_dist")
    shown = names_in(panels_of(saved["spec"]))
    assert shown == names_in(panels_of(specification(report_of([read_run(run)]))))
    assert os.environ["WANDB_API_KEY"] not in json.dumps(saved) + done.stdout + done.stderr


def test_without_an_account_the_command_says_what_saving_needs(run, tmp_path):
    done = report_command(run, WANDB_API_KEY=None, HOME=str(tmp_path), NETRC=str(tmp_path / "none"))
    assert done.returncode == 1 and done.stdout == ""
    assert "set WANDB_API_KEY or run `wandb login`" in done.stderr and "--json FILE" in done.stderr


def test_what_is_no_run_or_is_in_two_projects_is_named(run, tmp_path):
    with pytest.raises(UserError, match="holds no metrics.jsonl; give the directory of a run"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="holds no record of wandb"):
        read_run(tmp_path)
    one = read_run(run)
    with pytest.raises(UserError, match="several projects of wandb, cores, srgan_dist; .* --project"):
        report_of([one, replace(one, project="cores")])
    assert report_of([one, replace(one, project="cores")], project="cores").project == "cores"
