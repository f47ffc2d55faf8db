"""Whether an update fits the memory, as `--dry-run` says it."""

import math

import pytest
from conftest import tiny_config

from srgan_dist.run.dry_run import dry_run_report, fit_of_memory, memory_of_rank
from srgan_dist.run.preflight import preflight
from srgan_dist.run.update_cost import UpdateCost
from srgan_dist.storage.cache import GIB

FITS = "by this estimate an update fits the memory of a rank: "
NOT = "by this estimate an update does not fit the memory of a rank: "


@pytest.mark.parametrize(
    "gib, expected",
    [
        (8, f"{FITS}8.00 of 8.00 GiB"),
        (7.9, f"{NOT}8.00 of 7.90 GiB; try data.batch_size=8 with gradient_accumulation_steps=1"),
        (5.9, f"{NOT}8.00 of 5.90 GiB; try data.batch_size=4 with gradient_accumulation_steps=1"),
        (2.9, f"{NOT}8.00 of 2.90 GiB; try a smaller data.lr_crop, as not even one crop at a time fits"),
    ],
)
def test_the_largest_phase_with_six_crops_on_each_of_two_ranks(gib, expected):
    costs = [UpdateCost(1.0, GIB / 2, GIB), UpdateCost(1.0, GIB, 2 * GIB)]
    assert fit_of_memory(costs, 6, gib * GIB, 2) == expected


@pytest.mark.parametrize("memory, words", [(GIB, FITS), (1000, NOT), (math.inf, None)])
def test_the_report_compares_with_the_memory_that_is_given(shards, tmp_path, memory, words):
    config = tiny_config(shards, tmp_path)
    report = dry_run_report(config, preflight(config), memory=memory)
    assert words in report if words else "by this estimate" not in report


def test_ranks_share_the_free_memory_of_a_cpu(monkeypatch):
    monkeypatch.setattr("srgan_dist.run.dry_run.free_memory", lambda: 12.0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory_of_rank("cpu", 3) == 4.0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of several nodes
    assert memory_of_rank("cpu", 6) == 6.0
