import itertools

import numpy as np
import pytest
import torch

from srgan_dist.data.augment import num_orientations, orient

SYMMETRIES_OF_A_SQUARE = [  # by orientation
    lambda x: x,
    lambda x: np.flip(x, 0),
    lambda x: np.flip(x, 1),
    lambda x: np.flip(np.flip(x, 0), 1),
    lambda x: x.T,
    lambda x: np.flip(x, 0).T,
    lambda x: np.flip(x, 1).T,
    lambda x: np.flip(np.flip(x, 0), 1).T,
]


def cube(ndim, dtype, side=3):
    """One image whose voxels all differ."""
    return torch.arange(side**ndim).to(dtype).view(1, 1, *[side] * ndim)


def symmetries(image):
    """All flips and transposes of an array by NumPy, as bytes: the symmetry group of a square or cube."""
    return {
        np.ascontiguousarray(np.flip(image.transpose(axes), flipped)).tobytes()
        for axes in itertools.permutations(range(image.ndim))
        for count in range(image.ndim + 1)
        for flipped in itertools.combinations(range(image.ndim), count)
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16])
@pytest.mark.parametrize("ndim, order", [(2, 8), (3, 48)])
def test_all_orientations_are_the_symmetry_group(dtype, ndim, order):
    image = cube(ndim, dtype)
    batch = orient(image.expand(order, *image.shape[1:]).clone(), torch.arange(order))
    assert batch.dtype == dtype and torch.equal(batch[:1], image)
    assert {one.numpy().tobytes() for one in batch[:, 0]} == symmetries(image[0, 0].numpy())
    assert len({one.numpy().tobytes() for one in batch}) == order == num_orientations("all", ndim)


@pytest.mark.parametrize("ndim, count", [(2, 4), (3, 8)])
def test_flips_are_the_first_orientations_and_swap_no_axes(ndim, count):
    image = cube(ndim, torch.uint8)
    flipped = orient(image.expand(count, *image.shape[1:]).clone(), torch.arange(count))
    for number in range(count):
        axes = [axis for axis in range(ndim) if number >> axis & 1]
        assert np.array_equal(flipped[number, 0].numpy(), np.flip(image[0, 0].numpy(), axes))
    assert num_orientations("flips", ndim) == count and num_orientations("none", ndim) == 1


def test_the_orientations_of_a_square_are_those_of_earlier_versions():
    images = torch.randint(0, 256, (8, 1, 5, 5), dtype=torch.uint8)
    oriented = orient(images, torch.arange(8))
    for number, symmetry in enumerate(SYMMETRIES_OF_A_SQUARE):
        assert np.array_equal(oriented[number, 0].numpy(), symmetry(images[number, 0].numpy()))


def test_each_image_of_a_batch_has_its_own_orientation_in_all_its_channels():
    images = torch.randint(0, 256, (3, 2, 4, 4, 4), dtype=torch.uint8)
    oriented = orient(images, torch.tensor([0, 47, 13]))
    for number, orientation in enumerate((0, 47, 13)):
        for channel in range(2):
            alone = orient(images[number : number + 1, channel : channel + 1], torch.tensor([orientation]))
            assert torch.equal(oriented[number, channel], alone[0, 0])


def test_one_voxel_stays():
    assert [orient(torch.full((1, 1, 1, 1), 3), torch.tensor([o])).item() for o in range(8)] == [3] * 8
