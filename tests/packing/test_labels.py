"""Label images and masks are no scans."""

import numpy as np
import pytest
import tifffile
from conftest import texture
from test_pictures import write

from srgan_dist.packing.build import BuildError, BuildOptions, build


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
