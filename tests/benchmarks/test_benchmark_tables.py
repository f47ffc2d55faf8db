import argparse
import json
import sys

import pytest
from commands import run
from conftest import REPOSITORY

from srgan_dist.benchmarks import tables
from srgan_dist.benchmarks.step_plan import read_baseline
from srgan_dist.utils.errors import UserError


@pytest.mark.parametrize("name", ["step", "step_two_ranks_pretrain", "step_two_ranks_adversarial", "loader"])
def test_the_tables_of_speed_on_the_page_are_those_of_the_measurements(name):
    results = json.loads((REPOSITORY / "docs" / "speed" / f"{name}.json").read_text())
    assert tables.table_of(results) in (REPOSITORY / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "x",
        "[" * 100_000,
        '{"stages": [1]}',
        '{"rows": 3}',
        '{"machine": {"device": 0}, "srgan_dist": 1, "webdataset": 0}',
    ],
    ids=["list", "no json", "deep", "stages", "rows", "zero"],
)
def test_a_file_that_no_benchmark_has_written_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="x.json is no file of benchmark.py loader, step or gpu"):
        tables.run(argparse.Namespace(files=[path]), None)
    with pytest.raises(UserError, match="^--baseline .*x.json is no file that benchmark.py step has written"):
        read_baseline(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ("loader --json no/such/x.json", "--json no/such/x.json: there is no folder "),
        ("gpu --device cpu --rocks no/such", "--rocks no/such is no folder with sub-folders, one per rock"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(options, message):
    done = run(sys.executable, "launch/benchmark.py", *options.split())
    assert done.returncode in (1, 2) and message in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
