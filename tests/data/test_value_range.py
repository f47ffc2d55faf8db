import numpy as np
import pytest
import torch

from srgan_dist.data.value_range import to_grey_levels, to_metric_range, to_network_range


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_grey_level_survives_the_way_to_the_network_and_back(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    signed = to_network_range(torch.from_numpy(levels))
    assert signed.dtype == torch.float32 and signed[0] == -1 and signed[-1] == 1
    assert np.array_equal(to_grey_levels(to_metric_range(signed).numpy(), dtype), levels)


def test_values_outside_the_range_are_clamped_and_rounded_once():
    assert to_metric_range(torch.tensor([-1.5, 1.5])).tolist() == [0, 1]
    assert to_grey_levels(np.array([0.49, 0.51, 254.5, 254.49]) / 255, np.uint8).tolist() == [0, 1, 255, 254]
