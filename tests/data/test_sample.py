import io

import numpy as np
import pytest

from srgan_dist.data.sample import key_problem, npy_header, padded


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_the_npy_header_is_that_of_numpy(dtype, shape):
    image = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    buffer = io.BytesIO()
    np.save(buffer, image)
    assert npy_header(shape, dtype) + image.tobytes() == buffer.getvalue()


def test_keys():
    assert key_problem("sandstone_0001-a") is None
    for key in ("", "a.b", "a/b", "../a", "x" * 91, "grès"):
        assert "must be 1 to 90" in key_problem(key)


def test_padding():
    assert [padded(size, 512) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
