import io

import numpy as np
import pytest
import torch

from srgan_dist.data.sample import key_problem, npy_header, padded, to_grey, to_signed, to_unit


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_grey_level_survives_the_way_to_the_network_and_back(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    signed = to_signed(torch.from_numpy(levels))
    assert signed.dtype == torch.float32 and signed[0] == -1 and signed[-1] == 1
    assert np.array_equal(to_grey(to_unit(signed).numpy(), dtype), levels)


def test_values_outside_the_range_are_clamped_and_rounded_once():
    assert to_unit(torch.tensor([-1.5, 1.5])).tolist() == [0, 1]
    assert to_grey(np.array([0.49, 0.51, 254.5, 254.49]) / 255, np.uint8).tolist() == [0, 1, 255, 254]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_npy_header_is_what_numpy_writes(dtype):
    image = np.arange(12, dtype=dtype).reshape(3, 4)
    buffer = io.BytesIO()
    np.save(buffer, image)
    assert npy_header(3, 4, dtype) + image.tobytes() == buffer.getvalue()


def test_keys():
    assert key_problem("sandstone_0001-a") is None
    for key in ("", "a.b", "a/b", "../a", "x" * 91, "grès"):
        assert "must be 1 to 90" in key_problem(key)


def test_padding():
    assert [padded(size, 512) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
