"""Pairs of other people's WebDatasets that do not fit, and pictures that are no scans, by name."""

import numpy as np
import pytest
from test_align import rock, scanned
from webdatasets import encoded, index, refused, sample, write

from srgan_dist.cli.index import main as index_main
from srgan_dist.data.split import open_split
from srgan_dist.utils.errors import UserError

SIZES = ("hr", 80, 72), ("lr", 20, 18)


def shards(folder, lr_of, count=9):
    """Write pairs of 192x192 HR pixels whose LR is lr_of(number, [LR of all])."""
    hr = [rock(i, (192, 192)) for i in range(count)]
    lr = [scanned(image, 4, (0, 0), 4, noise=1) for image in hr]
    samples = [
        sample(i, **{"hr.png": encoded(hr[i], "png"), "lr.png": encoded(lr_of(i, hr, lr), "png")})
        for i in range(count)
    ]
    write(folder / "shards-000000.tar", samples)
    return folder


ALL = {"train": "shards-000000.tar", "valid": None}


def test_turned_exchanged_and_inverted_pairs_are_faults_by_name(tmp_path, capsys):
    def lr_of(i, hr, lr):
        changed = {1: lambda: lr[1][::-1], 3: lambda: lr[4], 4: lambda: lr[3], 6: lambda: 255 - lr[6]}
        return np.ascontiguousarray(changed.get(i, lambda: lr[i])())

    error = refused(capsys, shards(tmp_path / "set", lr_of), "--rock", "coal", **ALL)
    name = f"{tmp_path}/set/shards-000000.tar: sample "
    assert f"{name}'0001' flipped along y: correlation 0." in error
    assert f"{name}'0006' correlation -0." in error and "dark where HR is bright" in error
    assert f"its LR seems to be that of {name}'0004'" in error
    assert "leave their shards out, or extract the images for build --align" in error
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_shift_is_a_note_with_its_pixels(tmp_path, capsys):
    def lr_of(i, hr, lr):
        return scanned(hr[i], 4, (4, -8), 4, noise=1) if i == 2 else lr[i]

    index(shards(tmp_path / "set", lr_of), "--rock", "coal", **ALL)
    out = capsys.readouterr().out
    assert "coal: 1 pairs: LR fits HR better after a shift" in out and "build --align" in out
    assert "sample '0002' (1, -2): correlation 0." in out

    # Lost tables are written again whatever the pictures show
    (tmp_path / "set" / "train.index.npy").unlink()
    index_main([str(tmp_path / "set")])
    assert (tmp_path / "set" / "train.index.npy").exists()


def test_masks_beside_scans_are_a_fault(tmp_path, capsys):
    samples = [sample(i) for i in range(4)]
    for i in (1, 3):
        masks = {
            f"{side}.png": encoded(np.eye(n, dtype=np.uint8)[:, :m] * 255, "png") for side, n, m in SIZES
        }
        samples[i] |= masks
    write(tmp_path / "set" / "shards-000000.tar", samples)
    error = refused(capsys, tmp_path / "set", "--rock-field", "rock", **ALL)
    assert "coal: 2 images have 8 grey levels or fewer" in error and "leave their shards out" in error


def test_a_damaged_index_says_how_to_make_it_again(tmp_path):
    folder = index(shards(tmp_path / "set", lambda i, hr, lr: lr[i]), "--rock", "coal", **ALL)
    with open(folder / "train.index.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(
        UserError, match="sha256 differs.; delete its manifest.json and index its shards again"
    ):
        open_split(folder, "train")
    (folder / "shards-000000.tar").unlink()
    with pytest.raises(
        UserError, match="copy it again or delete its manifest.json and index its shards again"
    ):
        open_split(folder, "train")
