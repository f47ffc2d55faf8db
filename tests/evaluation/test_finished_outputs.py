"""A folder that is super-resolved again: what is there is kept, and what is not its own is left alone."""

import json
import sys

import numpy as np
import pytest
import tifffile
from commands import run
from conftest import texture
from test_super_resolve import network
from volume_runs import network as volume_network
from volume_runs import source

import srgan_dist
from srgan_dist.evaluation.finished_outputs import RECORD
from srgan_dist.evaluation.super_resolve_files import spread_path
from srgan_dist.evaluation.unfinished_volume import folder_of
from srgan_dist.models.weights_file import save_generator


@pytest.fixture
def weights(tmp_path):
    save_generator(tmp_path / "g.safetensors", network(2), {})
    return tmp_path / "g.safetensors"


@pytest.fixture
def folder(tmp_path):
    """Twelve images."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(12):
        place = tmp_path / "in" / ("deep" if number % 3 == 0 else ".")
        tifffile.imwrite(place / f"{number}.tif", texture(number, 16, 20), photometric="minisblack")
    return tmp_path / "in"


def upscale(weights, folder, **options):
    return srgan_dist.super_resolve(weights, folder, folder.parent / "out", device="cpu", **options)


def states(paths):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_the_same_command_keeps_what_it_has_made_and_makes_the_rest(weights, folder, caplog):
    made = upscale(weights, folder)
    whole = states(made)
    for path in made[4:]:
        path.unlink()
    caplog.clear()
    again = upscale(weights, folder)
    assert "4 of 12 outputs are there already, of the same weights, settings and inputs" in caplog.text
    assert sorted(again) == sorted(made) and set(again[:4]) == set(made[:4])
    after = states(again)
    assert {path: content for path, (content, _) in after.items()} == {p: c for p, (c, _) in whole.items()}
    assert all(after[path] == whole[path] for path in made[:4])
    assert upscale(weights, folder) == sorted(again, key=made.index)  # nothing is left to do


def test_the_command_says_what_it_keeps(weights, folder):
    upscale(weights, folder)
    (folder.parent / "out" / "1.tif").unlink()
    done = run(sys.executable, "launch/super_resolve.py", weights, folder, folder.parent / "out")
    assert done.returncode == 0 and "1 images written" in done.stdout, done.stderr
    assert "note: 11 of 12 outputs are there already" in done.stderr


def test_files_of_others_and_changed_ones_are_named_and_left_alone(weights, folder):
    out = folder.parent / "out"
    out.mkdir()
    (out / "2.tif").write_bytes(b"mine")
    with pytest.raises(
        srgan_dist.UserError, match="2.tif exists, and .* does not say that this command made"
    ):
        upscale(weights, folder)
    (out / "2.tif").unlink()
    upscale(weights, folder)
    (out / "2.tif").write_bytes(b"mine")
    with pytest.raises(srgan_dist.UserError, match="2.tif was changed after it was made; give another name"):
        upscale(weights, folder)
    assert (out / "2.tif").read_bytes() == b"mine"


def test_other_weights_settings_and_inputs_are_named(weights, folder):
    upscale(weights, folder)
    with pytest.raises(srgan_dist.UserError, match="12 faults .*\n.* was made with other values of: window;"):
        upscale(weights, folder, window="0:200")
    tifffile.imwrite(folder / "2.tif", texture(99, 16, 20), photometric="minisblack")
    with pytest.raises(srgan_dist.UserError, match="2.tif was made with other values of: input"):
        upscale(weights, folder)
    save_generator(weights, network(2, blocks=2), {})
    with pytest.raises(srgan_dist.UserError, match="12 faults .*\n.* other values of: weights;"):
        upscale(weights, folder)


def test_a_line_that_was_cut_by_a_kill_costs_its_own_output_only(weights, folder):
    made = upscale(weights, folder)
    record = folder.parent / "out" / RECORD
    record.write_bytes(record.read_bytes()[:-20])  # the last one
    made[-1].unlink()  # it is noted before the file has its name
    upscale(weights, folder)
    assert [json.loads(line)["file"] for line in record.read_bytes().splitlines()[-1:]] == [
        made[-1].relative_to(folder.parent / "out").as_posix()
    ]
    assert len(upscale(weights, folder)) == 12


def test_volumes_with_their_spread_are_kept_too(tmp_path):
    weights, folder = tmp_path / "g.safetensors", tmp_path / "in"
    save_generator(weights, volume_network(noise=1), {})
    folder.mkdir()
    for name in ("a.mhd", "b.tif"):
        source(folder / name)
    np.save(folder / "image.npy", texture(1, 12, 14))
    made = upscale(weights, folder, tile=7, samples=2)
    out = folder.parent / "out"
    before = states(path for path in out.iterdir() if path.name != RECORD)
    assert len(before) == 8  # .mhd has a .raw, and each its spread
    assert upscale(weights, folder, tile=7, samples=2) == [
        out / name for name in ("a.mhd", "b.tif", "image.npy")
    ]
    assert before == states(path for path in out.iterdir() if path.name != RECORD)
    spread_path(out / "b.tif").unlink()
    with pytest.raises(srgan_dist.UserError, match="b.tif exists without b_spread.tif, which belongs to it"):
        upscale(weights, folder, tile=7, samples=2)
    assert len(made) == 3


def test_a_run_that_was_killed_when_its_volume_had_its_name_is_finished(tmp_path):
    weights = tmp_path / "g.safetensors"
    save_generator(weights, volume_network(), {})
    source(tmp_path / "in.npy")
    (path,) = srgan_dist.super_resolve(weights, tmp_path / "in.npy", tmp_path / "out.npy", device="cpu")
    whole = path.read_bytes()
    unfinished = folder_of(path)

    def leave(folder, **options):
        raise KeyboardInterrupt

    path.unlink()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("srgan_dist.evaluation.unfinished_volume.shutil.rmtree", leave)
        srgan_dist.super_resolve(weights, tmp_path / "in.npy", path, device="cpu")
    assert path.exists() and unfinished.exists()
    assert srgan_dist.super_resolve(weights, tmp_path / "in.npy", path, device="cpu") == [path]
    assert path.read_bytes() == whole and not unfinished.exists()
