"""Label images and masks are no scans: by their grey levels, by their folders, and by how flat they are."""

import numpy as np
import pytest
import tifffile
from conftest import texture
from PIL import Image
from scipy.ndimage import gaussian_filter
from test_align import rock
from test_pictures import write

from srgan_dist.packing.build import BuildError, BuildOptions, build
from srgan_dist.packing.pictures import look


@pytest.mark.parametrize("labels", [(0, 255), (0, 1), (0, 1, 2, 3)])
def test_a_folder_of_masks_beside_scans_is_a_fault(tmp_path, labels):
    write(tmp_path / "in" / "rock", {str(i): texture(i) for i in range(3)})
    edges = np.linspace(60, 200, len(labels) - 1)
    masks = {str(i): np.array(labels, np.uint8)[np.digitize(texture(i), edges)] for i in range(3)}
    write(tmp_path / "in" / "rock_pores", masks)
    with pytest.raises(
        BuildError, match="rock_pores: 3 images have 8 grey levels or fewer, as label"
    ) as caught:
        build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32))
    assert len(caught.value.faults) == 1 and "move them out of SOURCE" in caught.value.faults[0]


@pytest.mark.parametrize("name", ["rock_mask", "Masks", "coal-labels", "seg", "rock segmented", "gt"])
def test_a_folder_called_like_masks_of_another_one_is_a_fault(tmp_path, name):
    """Whatever they hold: labels of 200 grains look like grey levels."""
    grains = {str(i): texture(i, 18, 20).repeat(4, 0).repeat(4, 1) for i in range(3)}
    write(tmp_path / "in" / "rock", {str(i): texture(i) for i in range(3)})
    write(tmp_path / "in" / name, grains)
    with pytest.raises(BuildError, match="is called like label images or masks") as caught:
        build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32))
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'in' / name}: ") and f"as {tmp_path / 'in' / 'rock'};" in fault


@pytest.mark.parametrize("name, stem", [("mask", "m{}"), ("maskelyne", "{}"), ("segovia", "{}")])
def test_a_rock_of_other_names_or_not_called_like_masks_is_a_rock(tmp_path, name, stem):
    write(tmp_path / "in" / "rock", {str(i): texture(i) for i in range(3)})
    write(tmp_path / "in" / name, {stem.format(i): texture(i + 3) for i in range(3)})
    found = build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32))
    assert found.manifest.rocks == sorted([name, "rock"])


def test_a_mask_among_scans_is_a_fault_and_faint_pages_are_none(tmp_path):
    images = {str(i): texture(i) for i in range(9)} | {"air": texture(9) // 64}
    write(tmp_path / "in" / "rock", images)
    build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32))
    tifffile.imwrite(tmp_path / "in" / "rock" / "0_mask.tif", np.uint8(255) * (images["0"] > 128))
    with pytest.raises(BuildError, match="rock: 1 images have 8 grey levels or fewer.*0_mask.tif"):
        build(tmp_path / "in", tmp_path / "other", BuildOptions(tile=80, crop=32))


def test_segmented_images_alone_are_a_note(tmp_path):
    write(tmp_path / "in" / "rock", {str(i): np.uint8(texture(i) > 128) for i in range(3)})
    notes = build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32)).notes
    assert any("rock: 3 images have 8 grey levels or fewer" in note for note in notes)


def labels_of_grains(i, dtype):
    """Cells around random points, each with a label of its own, as a watershed leaves them."""
    points = np.random.default_rng(i).uniform(0, 80, (40, 2))
    y, x = np.indices((80, 80))
    distances = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return (1 + 5 * distances.argmin(-1)).astype(dtype)


def resampled_mask(i, dtype):
    mask = Image.fromarray(np.uint8(255) * (texture(i, 50, 50) > 128))
    return np.array(mask.resize((80, 80), Image.Resampling.BICUBIC)).astype(dtype)


def whole_range(i, dtype):
    return (texture(i) * (np.iinfo(dtype).max / 255)).astype(dtype)


def enlarged(i, dtype):
    return texture(i, 10, 10).repeat(8, 0).repeat(8, 1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("make", [labels_of_grains, resampled_mask, enlarged])
def test_label_images_of_many_levels_are_noted_by_name(tmp_path, make, dtype):
    write(tmp_path / "in" / "scan", {str(i): whole_range(i, dtype) for i in range(3)})
    write(tmp_path / "in" / "grains", {f"g{i}": make(i, dtype) for i in range(3)})
    notes = build(tmp_path / "in", tmp_path / "out", BuildOptions(tile=80, crop=32)).notes
    (note,) = [note for note in notes if "flat nearly everywhere" in note]
    assert note.startswith("grains: 3 images are flat") and str(tmp_path / "in" / "grains" / "g0.tif") in note
    assert not any("grey levels are" in note for note in notes)


def smoothed(image):
    return np.rint(gaussian_filter(image.astype(float), 2)).astype(np.uint8)


@pytest.mark.parametrize("make", [lambda i: rock(i, (192, 192)), lambda i: smoothed(rock(i, (192, 192)))])
@pytest.mark.parametrize("masked", [0, 0.7, 0.98])
def test_scans_are_not_flat(make, masked):
    """Also denoised ones, and those with a mask around them and some saturated pixels."""
    for i in range(3):
        image = make(i)
        if masked:
            image[:, : round(masked * 192)] = 0
            image[:9, 100:] = 255
        found = look(image)
        assert found.levels > 8 and not found.flat
