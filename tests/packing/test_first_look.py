"""Faults of pictures that are found before packing begins, in a part of the pictures: only certain ones."""

import numpy as np
import pytest
import tifffile
from conftest import texture

from srgan_dist.packing.build import BuildError, BuildOptions, build

OPTIONS = BuildOptions(scale=2, tile=48, crop=32)


def acts(source, out):
    """Return what a build does, and its BuildError if there is one."""
    seen = []

    def progress(results, count, act):
        seen.append(act)
        return results

    try:
        build(source, out, OPTIONS, progress)
    except BuildError as error:
        return seen, error.faults
    return seen, []


def write(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        np.save(folder / f"{i:02d}.npy", image)


def scans(first, count=20):
    return [texture(first + i, 48, 48) for i in range(count)]


def halved(image):
    return image.reshape(24, 2, 24, 2).mean((1, 3)).astype(np.uint8)


def test_masks_beside_scans_end_a_build_before_it_packs(tmp_path):
    write(tmp_path / "in" / "coal", scans(0))
    write(tmp_path / "in" / "coal_pores", [image // 128 * 255 for image in scans(0)])
    seen, (fault,) = acts(tmp_path / "in", tmp_path / "out")
    assert seen == [] and fault.startswith(
        "of 32 pictures that were looked at first, coal_pores: 16 images have"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lr: lr[:, ::-1], "LR fits HR better when it is turned"),
        (lambda lr: 255 - lr, "LR is dark where HR is bright"),
    ],
)
def test_pairs_that_do_not_fit_end_a_build_before_it_packs(tmp_path, change, words):
    write(tmp_path / "hr" / "coal", scans(0))
    write(tmp_path / "lr" / "coal", [change(halved(image)) for image in scans(0)])
    seen, faults = acts((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out")
    (fault,) = [fault for fault in faults if words in fault]
    assert seen == [] and fault.startswith("of 16 pictures that were looked at first, coal: ")


def test_pages_of_air_are_no_faults_where_a_part_of_a_stack_is_looked_at(tmp_path):
    """Of 40 pages the last 16 show air: few grey levels, and in the pairs nothing in common."""
    rng = np.random.default_rng(0)
    rock = [np.clip(image.astype(int) // 2 + 60, 0, 255).astype(np.uint8) for image in scans(0, 24)]
    hr = np.stack([*rock, *rng.integers(10, 16, (16, 48, 48), np.uint8)])
    air = rng.integers(10, 16, (16, 24, 24), np.uint8)
    lr = np.stack([*map(halved, rock), *air])
    for side, stack in (("hr", hr), ("lr", lr)):
        (tmp_path / side).mkdir()
        tifffile.imwrite(tmp_path / side / "core.tif", stack, photometric="minisblack")
    assert acts(tmp_path / "hr", tmp_path / "made") == (["hash files", "pack images"], [])
    assert acts((tmp_path / "hr", tmp_path / "lr"), tmp_path / "out") == (["hash files", "pack images"], [])
