"""Noise by seed and position, against a reference in Python's own integers."""

import numpy as np
import pytest
import torch

from srgan_dist.data.noise import Noise, noise_at, seeds_of

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def split_mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference(seed, number, position, channels):
    x = split_mix((split_mix(seed) + number * GOLDEN) & MASK)
    for coordinate in position:
        x = split_mix((x + coordinate * GOLDEN) & MASK)
    if channels <= 2:
        hashes = [x]
    else:
        hashes = [split_mix((x + pair * GOLDEN) & MASK) for pair in range(-(-channels // 2))]
    sums = [sum((h >> (32 * half + 8 * k)) & 255 for k in range(4)) for h in hashes for half in (0, 1)]
    return [(s - 510) / np.sqrt(4 * (256**2 - 1) / 12) for s in sums[:channels]]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_value_is_the_hash_of_seed_number_and_position(channels):
    seed, origin, shape = 2**62 + 5, (10, 2**33, 7), (2, 3, 2)
    found = noise_at(seeds_of(seed, torch.tensor([0, 9])), origin, shape, channels)
    assert found.shape == (2, channels, *shape) and found.dtype == torch.float32
    for image, number in enumerate((0, 9)):
        for offset in np.ndindex(shape):
            position = np.add(origin, offset).tolist()
            expected = reference(seed, number, position, channels)
            assert found[image, :, *offset].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_window_has_the_values_of_the_whole():
    whole = Noise(3).at([0, 1], (0, 0), (40, 50), 2, "cpu")
    window = Noise(3).at([1], (7, 20), (11, 30), 2, "cpu")
    assert torch.equal(window[0], whole[1, :, 7:18, 20:])


def test_values_are_standard_and_independent():
    noise = Noise(0).at(range(4), (0, 0), (128, 128), 2, "cpu")
    assert noise.mean().abs() < 0.01 and (noise.std() - 1).abs() < 0.01
    others = [noise.roll(1, 2), noise.roll(1, 3), noise.roll(1, 0), noise.flip(1)]
    others.append(Noise(1).at(range(4), (0, 0), (128, 128), 2, "cpu"))
    assert all((noise * other).mean().abs() < 0.01 for other in others)


def test_the_strength_is_a_factor():
    full, half = (Noise(5, strength).at([0], (0,), (9,), 1, "cpu") for strength in (1.0, 0.5))
    assert torch.equal(half, 0.5 * full) and not Noise(5, 0).at([0], (0,), (9,), 1, "cpu").any()
