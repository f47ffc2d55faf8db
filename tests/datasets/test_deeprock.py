"""A small archive of DeepRock-SR's layout: recorded, compared, unpacked and counted."""

import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_fetch import HASTY, Site, file, page, zip_of

from srgan_dist.datasets.deeprock import FOLDER, RECORD, count_images, download, format_images
from srgan_dist.packing.scan import find_sources
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import file_lock


def png(seed, size):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(file, "PNG")
    return file.getvalue()


def images(*rocks):
    """Return {path: bytes}: two training pairs, one of validation and one of test per rock."""
    files = {}
    for rock in rocks:
        for number, split in enumerate(("train", "train", "valid", "test"), 1):
            stem = f"{rock}/{rock}_{split}"
            files[f"{stem}_HR/{number:04}.png"] = png(number, 16)
            for kind, scale in (("default", 2), ("unknown", 4)):
                files[f"{stem}_LR_{kind}_X{scale}/{number:04}x{scale}.png"] = png(number, 16 // scale)
    return files


def below(root, files):
    return {f"{root}{name}": content for name, content in files.items()}


IMAGES = images("carbonate2D", "coal2D")
ZIP = zip_of(below("DeepRockSR-2D/", IMAGES))
OTHER = zip_of(below("DeepRockSR-2D/", images("sandstone2D", "coal2D")))


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    site.answers["/zip"] = [file(ZIP, modified="Wed, 01 Jan 2020 00:00:00 GMT")]
    yield site
    site.close()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def given(tmp_path, content, name="by hand.zip"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def fetched(site, out, *paths):
    lines = []
    sources = [site.source(path) for path in paths or ["/zip"]]
    return download(out, sources=sources, retry_policy=HASTY, say=lines.append), lines


def refused(*arguments, **options):
    with pytest.raises(UserError) as caught:
        download(*arguments, retry_policy=HASTY, **options)
    return str(caught.value)


def unpacked(out):
    folder = out / FOLDER
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names(out):
    return {path.name for path in out.iterdir()} - {".download.lock"}


# From an address


def test_the_first_address_that_gives_the_archive_is_recorded(site, out):
    result, lines = fetched(site, out, "/none", "/zip")
    assert unpacked(out) == IMAGES and names(out) == {FOLDER, RECORD}
    sha256 = hashlib.sha256(ZIP).hexdigest()
    assert json.loads((out / RECORD).read_text()) == {
        "url": f"{site.url}/zip",
        "bytes": len(ZIP),
        "sha256": sha256,
        "last_modified": "Wed, 01 Jan 2020 00:00:00 GMT",
        "files": 24,
        "unpacked_bytes": sum(map(len, IMAGES.values())),
    }
    assert "/none: HTTP 404" in lines[0] and f"sha256 {sha256}" in lines[-1] and result.left_out == 0


def test_when_all_addresses_fail_the_error_has_every_answer_and_the_way_out(site, out):
    site.answers |= {"/cut": [file(ZIP, cut=1000), page("no", 404)], "/zip": [page("<title>Moved</title>")]}
    error = refused(out, sources=[site.source("/cut"), site.source()])
    assert (
        f"{site.url}/cut: HTTP 404 Not Found" in error and "/zip: HTTP 200, an HTML page ('Moved')" in error
    )
    assert "https://doi.org/10.17612/s3m9-e024" in error and f"download.py {out} --from {FOLDER}.zip" in error
    assert "The partial download is kept" in error
    site.answers["/cut"] = [file(ZIP)]
    fetched(site, out, "/zip", "/cut")  # the address of the partial download is asked first
    assert unpacked(out) == IMAGES and site.requests[-1][:2] == ("/cut", "bytes=1000-")


def test_a_run_that_is_interrupted_while_it_unpacks_needs_no_second_download(site, out, monkeypatch):
    copy, files = shutil.copyfileobj, iter(range(9))

    def interrupted(*arguments):
        if next(files, None) is None:
            raise KeyboardInterrupt
        copy(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupted)
        fetched(site, out)
    assert names(out) == {f"{FOLDER}.zip.part", f"{FOLDER}.zip.part.json"}
    fetched(site, out)
    assert unpacked(out) == IMAGES and len(site.requests) == 1 and names(out) == {FOLDER, RECORD}


# The same data set


def test_a_second_run_requests_and_writes_nothing(site, out):
    fetched(site, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / FOLDER / ".DS_Store").write_bytes(b"a file manager's")
    result, lines = fetched(site, out)
    assert result.already_there and lines == [] and len(site.requests) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_archive_than_the_first_is_refused_until_the_record_is_deleted(site, out):
    fetched(site, out)
    shutil.rmtree(out / FOLDER)
    site.answers["/zip"] = [file(OTHER)]
    error = refused(out, sources=[site.source()])
    assert all(hashlib.sha256(content).hexdigest() in error for content in (ZIP, OTHER))
    assert f"delete {out / RECORD}" in error and not (out / FOLDER).exists()
    (out / RECORD).unlink()
    fetched(site, out)
    assert unpacked(out) == images("sandstone2D", "coal2D")


def test_an_archive_from_a_file_is_recorded_like_a_download(tmp_path, out):
    archive = given(tmp_path, ZIP)
    result = download(out, archive)
    assert unpacked(out) == IMAGES and archive.read_bytes() == ZIP
    assert (result.record.url, result.record.sha256) == (archive.as_uri(), hashlib.sha256(ZIP).hexdigest())
    assert download(out, archive).already_there
    assert "the data set is not the same" in refused(out, given(tmp_path, OTHER, "other.zip"))
    next((out / FOLDER).rglob("*.png")).unlink()
    assert "has 23 files of" in (error := refused(out)) and "delete the folder and start again" in error


@pytest.mark.parametrize(
    "prepare, words",
    [
        (lambda out: out.write_text(""), "is a file; give the name of a folder"),
        (lambda out: (out / FOLDER).mkdir(parents=True), f"is there, but no {RECORD}"),
        (
            lambda out: (out.mkdir(), (out / RECORD).write_text('{"url": "x"}')),
            f"{RECORD} is corrupt; delete it",
        ),
    ],
)
def test_an_out_that_cannot_be_used_is_named(out, prepare, words):
    prepare(out)
    assert words in refused(out, sources=[])


def test_one_process_at_a_time(out):
    out.mkdir()
    with file_lock(out / ".download.lock", "held"):
        assert f"another process downloads to OUT={out}; wait for it" in refused(out, sources=[])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html><title>Log in</title>", "an HTML page ('Log in')"),
        (b"", "nothing"),
        (ZIP[:-30], "data that begin with 'PK"),
        (b"\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_a_file_that_is_no_archive_is_described(tmp_path, out, content, words):
    error = refused(out, given(tmp_path, content))
    assert "by hand.zip is not a complete zip archive" in error and words in error and error.isprintable()
    assert f"--from {tmp_path} is not a file" in refused(out, tmp_path)


# Unpacking


@pytest.mark.parametrize(
    "root, files",
    [
        ("", IMAGES),
        ("2D Dataset/DeepRockSR-2D/", IMAGES),
        ("any/", images("coal2D")),
        ("any/", {name.removeprefix("coal2D/"): content for name, content in images("coal2D").items()}),
    ],
    ids=["at the root", "in folders", "one set", "one set without a folder"],
)
def test_the_sets_are_found_wherever_they_are(tmp_path, out, root, files):
    download(out, given(tmp_path, zip_of(below(root, files))))
    assert unpacked(out) == files


def test_other_sets_and_files_of_systems_are_left_out(tmp_path, out):
    others = {"portal/DeepRockSR-3D/coal3D/coal3D_train_HR/0801.mat": b"volume", "portal/terms.txt": b"terms"}
    system = {"__MACOSX/x/._0001.png": b"", "portal/DeepRockSR-2D/coal2D/.DS_Store": b""}
    kept = {"portal/DeepRockSR-2D/LICENSE.txt": b"licence"}
    archive = given(tmp_path, zip_of(others | system | kept | below("portal/DeepRockSR-2D/", IMAGES)))
    (out / f".{FOLDER}.unpacking" / "coal2D").mkdir(parents=True)
    (out / f".{FOLDER}.unpacking" / "coal2D" / "half.png").write_bytes(b"of a killed run")
    assert download(out, archive).left_out == 2
    assert unpacked(out) == IMAGES | {"LICENSE.txt": b"licence"} and names(out) == {FOLDER, RECORD}


def test_an_archive_without_a_set_is_described_by_its_content(tmp_path, out):
    error = refused(
        out, given(tmp_path, zip_of({"a/DeepRockSR-2D.zip": ZIP, "a/coal3D_train_HR/0801.mat": b""}))
    )
    assert (
        "it has a/DeepRockSR-2D.zip, a/coal3D_train_HR/0801.mat" in error and "--from the inner zip" in error
    )


def test_an_unsafe_or_corrupt_archive_leaves_nothing(tmp_path, out):
    corrupt, name = bytearray(ZIP), "DeepRockSR-2D/coal2D/coal2D_valid_HR/0003.png"
    corrupt[corrupt.index(name.encode()) + len(name) + 20] ^= 1
    assert f"'{name}' is corrupt (Bad CRC-32" in refused(out, given(tmp_path, corrupt))

    def longer(archive):
        archive.filelist[-1].file_size += 5

    def overlapping(archive):
        archive.filelist[-1].header_offset = 0

    for edit in (longer, overlapping):
        archive = given(tmp_path, zip_of(below("DeepRockSR-2D/", IMAGES), edit))
        assert "is corrupt" in refused(out, archive)
    unsafe = given(tmp_path, zip_of(below("DeepRockSR-2D/", IMAGES) | {"../a": b""}))
    assert "is not safe to unpack" in refused(out, unsafe) and names(out) == set()


# Contents


def test_images_are_counted_and_can_be_packed(tmp_path, out):
    download(out, given(tmp_path, ZIP))
    counts = count_images(out / FOLDER)
    assert counts["coal2D", "train"] == {"HR": 2, "default X2": 2, "unknown X4": 2} and len(counts) == 6
    assert [line.split() for line in format_images(counts).splitlines()[:3]] == [
        ["set", "split", "HR", "default", "X2", "unknown", "X4"],
        ["carbonate2D", "train", "2", "2", "2"],
        ["carbonate2D", "valid", "1", "1", "1"],
    ]
    found = find_sources(out / FOLDER, "unknown", 4)
    assert len(found.sources) == 8 and not found.faults and not found.notes


def command(*arguments):
    script = REPOSITORY / "shards" / "download.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_the_command_prints_the_contents_how_to_pack_them_and_the_licence(tmp_path):
    out = tmp_path / "my rocks"
    done = command(out, "--from", given(tmp_path, ZIP))
    assert done.returncode == 0 and done.stderr == ""
    packing = f"shards/build.py '{out}/DeepRockSR-2D' data/deeprock_x4 --kind unknown --scale 4"
    for words in (
        "coal2D          valid            1",
        hashlib.sha256(ZIP).hexdigest(),
        packing,
        "ODC-BY 1.0",
    ):
        assert words in done.stdout
    failed = command(tmp_path, "--from", tmp_path / "none.zip")
    assert failed.returncode == 1 and failed.stderr.startswith("error: --from ") and failed.stdout == ""
