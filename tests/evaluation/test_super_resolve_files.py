"""Files and folders that are super-resolved: listing, refusals, outputs; and the command."""

import signal
import sys

import numpy as np
import pytest
import torch
from commands import finished, start, wait_until
from commands import run as run_command
from conftest import texture
from PIL import Image
from test_super_resolve import network, super_resolve_grey

import srgan_dist
from srgan_dist.data.image_files import read_image, read_info
from srgan_dist.evaluation.super_resolve import depth_scale
from srgan_dist.evaluation.super_resolve_files import list_jobs, super_resolve_files
from srgan_dist.models.weights_file import save_generator
from srgan_dist.utils.errors import UserError


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights" / "g.safetensors"
    save_generator(path, network(), {})
    return path


def test_a_slice_that_becomes_a_volume_needs_a_format_with_pages(tmp_path):
    Image.fromarray(texture(0, 20, 24)).save(tmp_path / "in.png")
    with pytest.raises(UserError, match="out.png: PNG holds one page, not 2"):
        list_jobs(tmp_path / "in.png", tmp_path / "out.png", depth_scale(network(2, ndim=3)))
    jobs, _ = list_jobs(tmp_path / "in.png", tmp_path / "out.npy", depth_scale(network(2, ndim=3)))
    assert list(super_resolve_files(network(2, ndim=3), jobs)) == jobs
    assert np.load(tmp_path / "out.npy").shape == (2, 40, 48)


def make_folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(0, 20, 24)).save(root / name)
    return root


def test_a_folder_is_taken_with_its_linked_folders_and_other_files_are_named(tmp_path):
    folder = make_folder(tmp_path / "in", "b10.png", "b9.png", ".trash/c.png")
    (folder / "linked").symlink_to(make_folder(tmp_path / "else", "d.png"))
    (folder / "notes.txt").touch()
    jobs, notes = list_jobs(folder, tmp_path / "out")
    assert [str(output.relative_to(tmp_path / "out")) for _, output in jobs] == [
        "b9.png",
        "b10.png",
        "linked/d.png",
    ]
    assert notes == [f"{folder}: 1 files are of no format that is read and are left out: 1 .txt (notes.txt)"]


def test_all_faults_of_a_folder_are_listed_at_once(tmp_path):
    folder = make_folder(tmp_path / "in", "good.png", "there.png")
    make_folder(tmp_path / "out", "there.png")
    Image.fromarray(texture(0, 20, 24) > 100).save(folder / "one_bit.png")
    np.save(folder / "float.npy", np.zeros((4, 5), np.float32))
    (folder / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (folder / "scans").symlink_to(tmp_path / "not mounted")
    with pytest.raises(UserError) as error:
        list_jobs(folder, tmp_path / "out")
    for words in (
        "5 faults found, nothing was written",
        "one_bit.png: has 1 bit per pixel",
        "float.npy: pixels are float32",
        "gone.tif: is a broken link",
        "scans: is a broken link",
        f"OUTPUT={tmp_path / 'out' / 'there.png'} exists",
    ):
        assert words in str(error.value)
    assert "good.png" not in str(error.value)


def test_a_folder_does_not_go_into_itself_or_into_a_file(tmp_path):
    folder = make_folder(tmp_path / "in", "a.png")
    (tmp_path / "alias").symlink_to(folder)
    (tmp_path / "notes").touch()
    for target in (folder, folder / "out", tmp_path / "alias" / "out"):
        with pytest.raises(
            UserError, match="OUTPUT=.* is inside INPUT=.*; give a folder elsewhere|give a folder elsewhere"
        ):
            list_jobs(folder, target)
    for target in (tmp_path / "notes", tmp_path / "out.tif"):
        with pytest.raises(
            UserError, match=f"OUTPUT={target} names a file, but INPUT={folder} is a folder; give a folder"
        ):
            list_jobs(folder, target)


def run(*arguments):
    return run_command(sys.executable, "launch/super_resolve.py", *arguments)


@pytest.mark.parametrize(
    "output, words",
    [
        ("", "OUTPUT= is empty; give the path"),
        ("s3://bucket/sr.png", "OUTPUT=s3://bucket/sr.png is a URL; give the path"),
        ("in/a.png/b/sr.png", "OUTPUT=in/a.png/b/sr.png lies below .*in/a.png, which is no folder"),
    ],
)
def test_an_output_that_is_no_place_for_files_is_refused(tmp_path, monkeypatch, output, words):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "in", "a.png")
    with pytest.raises(UserError, match=words):
        list_jobs("in/a.png", output)


def test_the_command_on_a_file_and_on_a_folder(tmp_path, weights):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(texture(0, 20, 24)).save(folder / "a.PNG")
    np.save(folder / "deep" / "b.npy", np.stack([texture(1, 20, 24, np.uint16)] * 2))
    one = run(weights, folder / "a.PNG", tmp_path / "one.tif")
    assert one.returncode == 0 and "1 x 80 x 96 uint8" in one.stdout, one.stderr
    assert np.array_equal(read_image(tmp_path / "one.tif"), super_resolve_grey(network(), texture(0, 20, 24)))
    many = run(weights, folder, tmp_path / "out")
    assert many.returncode == 0 and "2 images written" in many.stdout, many.stderr
    assert read_info(tmp_path / "out" / "a.PNG").dtype == np.uint8
    volume = read_info(tmp_path / "out" / "deep" / "b.npy")
    assert (volume.slices, volume.height, volume.dtype) == (2, 80, np.uint16)


def test_impossible_outputs_are_refused_before_anything_is_computed(tmp_path, weights):
    np.save(tmp_path / "volume.npy", np.zeros((2, 20, 24), np.uint8))
    (tmp_path / "empty").mkdir()
    for source, target, words in (
        ("nowhere.png", "out.png", "INPUT=.*nowhere.png does not exist"),
        ("empty", "out", "holds no image"),
        ("volume.npy", "out.png", "out.png: PNG holds one page, not 2; write .tif or .npy"),
        (
            "volume.npy",
            "out.jpg",
            "out.jpg: format '.jpg' is not written; give a name that ends in one of .png",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            list_jobs(tmp_path / source, tmp_path / target)
    failed = run(tmp_path / "volume.npy", tmp_path / "volume.npy", tmp_path / "out.npy")
    assert (
        failed.returncode == 1
        and "volume.npy is not a safetensors file" in failed.stderr
        and "Traceback" not in failed.stderr
    )


def test_a_late_failure_says_how_many_outputs_there_are(tmp_path, weights):
    folder = make_folder(tmp_path / "in", "a.png", "b.png")
    (folder / "notes.txt").touch()
    data = bytearray((folder / "b.png").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "b.png").write_bytes(data)
    failed = run(weights, folder, tmp_path / "out")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "left out: 1 .txt (notes.txt)" in failed.stderr and "1 of 2 outputs were written" in failed.stderr
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.png"]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("factor", [1e30, 1e4])
def test_weights_that_make_no_images_are_named(tmp_path, ndim, factor, capsys):
    generator = network(2, ndim=ndim)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(factor)
    path = tmp_path / "large.safetensors"
    save_generator(path, generator, {})
    np.save(tmp_path / "in.npy", np.stack([texture(z, 20, 24) for z in range(5)])[:: 1 if ndim == 3 else 5])
    with pytest.raises(UserError, match=f"{path} gives .* where images are -1 to 1: .*use the weights"):
        srgan_dist.super_resolve(path, tmp_path / "in.npy", tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_partial_output(weights, tmp_path, number):
    np.save(tmp_path / "in.npy", np.stack([texture(0, 200, 200)] * 200))
    command = (sys.executable, "launch/super_resolve.py", weights, tmp_path / "in.npy", tmp_path / "out.tif")
    process = start(*command)
    wait_until(lambda: list(tmp_path.glob(".out.tif.*")), process)
    process.send_signal(number)
    done = finished(process)
    assert done.returncode == 128 + number and "Traceback" not in done.stderr, done.stderr
    assert "0 of 1 outputs were written" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.npy", "weights"}
