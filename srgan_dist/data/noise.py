"""Noise as a pure function of a seed and a position in the whole image, so that tiles, ranks and repeated
runs agree to the bit, on a CPU as on a GPU.

Every pixel hashes its seed and coordinates by SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators"). The sum of four bytes of the hash is close to a normal distribution, and in
integers it is exact on every device.
"""

import math
from dataclasses import dataclass

import torch

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed integer
FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
BYTES = 0x00FF00FF00FF00FF
MEAN, STD = 4 * 255 / 2, math.sqrt(4 * (256**2 - 1) / 12)  # of the sum of four bytes


@dataclass(frozen=True)
class Noise:
    """The noise with which images are super-resolved: its seed, and a factor (0: no noise, the smoothest
    image of the network; 1: as trained).
    """

    seed: int = 0
    strength: float = 1.0

    def at(self, numbers, origin, shape, channels, device):
        """Return the noise of a window: [N, channels, *shape] float32.

        numbers: of the images in their stack, N integers. origin, shape: of the window in the whole image, HR
        pixels.
        """
        seeds = seeds_of(self.seed, torch.as_tensor(numbers, dtype=torch.int64, device=device))
        return self.strength * noise_at(seeds, origin, shape, channels)


def seeds_of(seed, numbers):
    """Return a seed of its own for each of `numbers` [N] int64, from one seed in 0 .. 2^63 - 1."""
    return _mix(_mix(torch.full_like(numbers, seed)) + numbers * GOLDEN)


def noise_at(seeds, origin, shape, channels):
    """Return noise of mean 0 and variance 1, independent at every pixel: [B, channels, *shape] float32, in
    channels-last order.

    seeds: [B] int64, one per image. origin: position of the window's first pixel. shape: of the window.
    """
    hashes = seeds
    for start, length in zip(origin, shape, strict=True):
        positions = torch.arange(start, start + length, device=seeds.device)
        hashes = _mix(hashes[..., None] + positions * GOLDEN)
    pairs = -(-channels // 2)  # a hash has eight bytes, which are two values
    if pairs > 1:
        hashes = _mix(hashes[..., None] + torch.arange(pairs, device=seeds.device) * GOLDEN)
    sums = (hashes & BYTES) + ((hashes >> 8) & BYTES)
    sums += sums >> 16
    values = torch.stack([sums & 0x7FF, (sums >> 32) & 0x7FF], -1)
    values = values.view(len(seeds), *shape, 2 * pairs)[..., :channels]
    return values.movedim(-1, 1).float().sub_(MEAN).div_(STD)


def _mix(x):
    """Return the hash of int64 numbers, which are overwritten: SplitMix64's, whose shifts have no sign."""
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        x ^= (x >> shift) & (2 ** (64 - shift) - 1)
        x *= factor
    return x.bitwise_xor_((x >> 31) & (2**33 - 1))
