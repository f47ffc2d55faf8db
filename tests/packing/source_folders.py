import numpy as np
from conftest import texture
from PIL import Image


def write_set(root, name="coal2D", splits=("train", "valid", "test"), kind="unknown", scale=4, size=(64, 48)):
    """Write a DeepRock-SR set of two pairs per split, stored as RGB like the original."""
    number = 0
    for split in splits:
        hr_folder = root / name / f"{name}_{split}_HR"
        lr_folder = root / name / f"{name}_{split}_LR_{kind}_X{scale}"
        hr_folder.mkdir(parents=True)
        lr_folder.mkdir()
        for _ in range(2):
            number += 1
            hr = texture(number, *size)
            Image.fromarray(np.stack([hr] * 3, -1)).save(hr_folder / f"{number:04d}.png")
            lr = np.stack([hr[::scale, ::scale]] * 3, -1)
            Image.fromarray(lr).save(lr_folder / f"{number:04d}x{scale}.png")
    return root


def only_fault(found):
    """Return the only fault of a source."""
    (fault,) = found.faults
    return fault
