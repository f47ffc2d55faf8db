"""Too little memory: the error names what fits."""

import pytest
import torch
from conftest import tiny_config

from srgan_dist.run.failures import fitting_crops, out_of_memory_named, phase_costs
from srgan_dist.run.update_cost import UpdateCost, update_cost
from srgan_dist.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "size, below, expected",
    [(1000, 16, 8), (999, 16, 8), (899, 16, 4), (1000, 8, 4), (1000, 5, 4), (200, 16, 1), (199, 16, None)],
)
def test_the_largest_power_of_two_fits_and_twice_as_much_does_not(size, below, expected):
    costs = [UpdateCost(flop=1.0, crop_bytes=100.0, fixed_bytes=100), UpdateCost(1.0, 50.0, 20)]
    assert fitting_crops(costs, below, size=size) == expected


def test_where_weights_are_there_already_crops_have_all_that_is_unused():
    costs = [UpdateCost(flop=1.0, crop_bytes=100.0, fixed_bytes=10**9)]
    assert [fitting_crops(costs, 16, unused=unused) for unused in (800, 799, 99)] == [8, 4, None]
    assert fitting_crops(costs, 1, unused=800) is None


def test_an_update_that_does_not_fit_is_named_with_a_batch_that_does(shards, tmp_path):
    data = {"path": str(shards), "lr_crop": 8, "batch_size": 24}
    config = tiny_config(shards, tmp_path, data=data)
    with (
        pytest.raises(
            UserError,
            match="does not hold an update of data.batch_size=24: 12 crops .*By the estimate of --dry-run the"
            " largest power of two below is 8 crops at a time: data.batch_size=16 with"
            " gradient_accumulation_steps=1",
        ),
        out_of_memory_named(config, 2, CPU),
    ):
        raise torch.OutOfMemoryError("out of memory")


def test_the_costs_are_those_of_dry_run_of_every_phase_that_is_trained(shards, tmp_path):
    config = tiny_config(shards, tmp_path)
    assert phase_costs(config, "no") == [
        update_cost(config, phase, "no", 2) for phase in (config.pretrain, config.adversarial)
    ]
    assert len(phase_costs(config.model_copy(update={"adversarial": None}), "no")) == 1
