import numpy as np
import pytest
import tifffile

from srgan_dist.data.image_files import read_info
from srgan_dist.data.part import part_of
from srgan_dist.data.volume import ImageError


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_part_reads_like_a_volume_of_its_own(tmp_path, suffix):
    voxels = np.random.default_rng(0).integers(0, 255, (9, 11, 13), np.uint8)
    path = tmp_path / f"plug{suffix}"
    np.save(path, voxels) if suffix == ".npy" else tifffile.imwrite(path, voxels, photometric="minisblack")
    whole = read_info(path)
    part = part_of(part_of(whole, (2, 0, 1), (6, 11, 10)), (1, 3, 0), (4, 5, 10))
    expected = voxels[3:7, 3:8, 1:11]
    assert part.shape == expected.shape and part.path == path
    assert np.array_equal(np.stack(list(part.pages())), expected)
    assert np.array_equal(part.read((1, 2, 3), (2, 3, 4)), expected[1:3, 2:5, 3:7])
    assert part_of(whole, (0, 0, 0), whole.shape) is whole
    with pytest.raises(ImageError, match="which do not contain the block"):
        part.read((1, 0, 0), (4, 5, 10))
    with pytest.raises(ImageError, match=r"has \(9, 11, 13\) voxels, which hold no \(4, 11, 13\)"):
        part_of(whole, (6, 0, 0), (4, 11, 13))
