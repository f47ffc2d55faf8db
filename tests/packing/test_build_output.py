import errno
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, texture, write_folder
from PIL import Image
from test_build import digests, run

from srgan_dist.data.split import open_set
from srgan_dist.integrity.audit import verify
from srgan_dist.packing import build as packing
from srgan_dist.packing import pack
from srgan_dist.packing.build import BuildOptions, build
from srgan_dist.utils import locks as locking
from srgan_dist.utils.errors import UserError


def test_a_finished_set_is_recognised_and_another_is_refused(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    build(tmp_path / "hr", tmp_path / "out", TINY)
    before = digests(tmp_path / "out")
    assert build(tmp_path / "hr", tmp_path / "out", TINY).already_there
    with pytest.raises(ValueError, match="seed: 0 in OUT, now 5"):
        build(tmp_path / "hr", tmp_path / "out", BuildOptions(tile=80, crop=32, samples_per_shard=3, seed=5))
    Image.fromarray(texture(77)).save(tmp_path / "hr" / "coal" / "slice_0.png")
    with pytest.raises(ValueError, match="its images are not those of SOURCE now"):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    assert digests(tmp_path / "out") == before


def test_folders_of_others_are_not_touched(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    for name in ("out", "fresh.building"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.docx").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    with pytest.raises(ValueError, match="was not made by this program"):
        build(tmp_path / "hr", tmp_path / "fresh", TINY)
    assert (tmp_path / "out" / "thesis.docx").exists() and (
        tmp_path / "fresh.building" / "thesis.docx"
    ).exists()


def test_a_second_build_of_one_folder_is_refused_and_the_first_is_whole(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    build(tmp_path / "hr", tmp_path / "alone", TINY)

    def disturbed(results, count, act):
        for result in results:
            if act == "pack images":
                with pytest.raises(
                    UserError, match=f"another build is writing OUT={tmp_path / 'out'}; wait for it"
                ):
                    build(tmp_path / "hr", tmp_path / "out", TINY)
            yield result

    build(tmp_path / "hr", tmp_path / "out", TINY, disturbed)
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")


def test_a_build_that_another_one_overtakes_does_not_replace_its_set(tmp_path, monkeypatch):
    write_folder(tmp_path / "hr", {"coal": 4})
    build_directory = packing.build_directory

    def overtaken(*arguments):
        monkeypatch.setattr(packing, "build_directory", build_directory)
        build(tmp_path / "hr", tmp_path / "out", TINY)
        return build_directory(*arguments)

    monkeypatch.setattr(packing, "build_directory", overtaken)
    with pytest.raises(UserError, match="another build has just finished OUT="):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    assert verify(open_set(tmp_path / "out")) == [] and not (tmp_path / "out.building").exists()


KILLED = """
import os, signal, sys
from srgan_dist.packing.build import BuildOptions, build
def killed(results, count, act):
    for result in results:
        yield result
        if act == "pack images":
            os.kill(os.getpid(), signal.SIGKILL)
build(sys.argv[1], sys.argv[2], BuildOptions(tile=80, crop=32, samples_per_shard=3), killed)
"""


def test_the_lock_of_a_killed_build_does_not_block_the_next(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    killed = run("-c", KILLED, tmp_path / "hr", tmp_path / "out")
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "out.building" / "building.json").exists()
    build(tmp_path / "hr", tmp_path / "out", TINY)
    assert verify(open_set(tmp_path / "out")) == [] and not (tmp_path / "out.building").exists()


@pytest.mark.parametrize("without", ["module", "file system"])
def test_without_locks_of_the_system_the_marker_itself_is_the_lock(tmp_path, monkeypatch, without):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if without == "module":
        monkeypatch.setattr(locking, "fcntl", None)
    else:
        monkeypatch.setattr(locking.fcntl, "flock", unsupported)
    test_a_second_build_of_one_folder_is_refused_and_the_first_is_whole(tmp_path)
    (tmp_path / "left.building").mkdir()
    (tmp_path / "left.building" / "building.json").touch()
    with pytest.raises(UserError, match="if there is none, delete .*left.building/building.json"):
        build(tmp_path / "hr", tmp_path / "left", TINY)


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_a_build_killed_at_its_end_is_cleaned_up_by_the_next(tmp_path, monkeypatch, moment):
    write_folder(tmp_path / "hr", {"coal": 4})
    build(tmp_path / "hr", tmp_path / "undisturbed", TINY)
    replace = os.replace

    def killed(*paths):
        if paths[1] != tmp_path / "out" or moment == "after the rename":
            replace(*paths)
        if paths[1] == tmp_path / "out":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    monkeypatch.setattr(os, "replace", replace)
    build(tmp_path / "hr", tmp_path / "out", TINY)
    assert (
        digests(tmp_path / "out") == digests(tmp_path / "undisturbed")
        and not (tmp_path / "out.building").exists()
    )


@pytest.mark.parametrize("where", ["pixels", "allocation", "index"])
def test_a_full_disk_leaves_nothing_and_names_the_space_needed(tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_folder(tmp_path / "hr", {"coal": 4})
    build(tmp_path / "hr", tmp_path / "fits", TINY)
    if where == "index":
        monkeypatch.setattr(np, "save", full)
    else:
        monkeypatch.setattr(*{"pixels": (pack, "_write"), "allocation": (os, "posix_fallocate")}[where], full)
    with pytest.raises(
        UserError, match=f"OUT={tmp_path / 'out'} cannot be written .*No space left.* are free"
    ) as caught:
        build(tmp_path / "hr", tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.building").exists()
    needed = int(re.search(r"takes ([\d,]+) bytes", str(caught.value))[1].replace(",", ""))
    taken = sum(path.stat().st_size for path in (tmp_path / "fits").iterdir())
    assert 0 <= taken - needed < 4096  # all but the manifest and the headers of index tables


def test_an_out_that_cannot_be_made_is_refused(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file; give the name of a new folder"):
        build(tmp_path / "hr", tmp_path / "file", TINY)
    with pytest.raises(UserError, match="out cannot be made: .*file is a file"):
        build(tmp_path / "hr", tmp_path / "file" / "out", TINY)


def test_neither_of_out_and_source_is_inside_the_other(tmp_path):
    write_folder(tmp_path / "hr", {"coal": 4})
    (tmp_path / "link").symlink_to(tmp_path / "hr")
    for out in (tmp_path / "hr" / "out", tmp_path / "link" / "deep" / "out", tmp_path / "hr"):
        with pytest.raises(
            UserError, match=f"is SOURCE={tmp_path / 'hr'} or inside it; give a folder outside it"
        ):
            build(tmp_path / "hr", out, TINY)
    with pytest.raises(UserError, match=f"SOURCE={tmp_path / 'hr'} is inside OUT={tmp_path}"):
        build(tmp_path / "hr", tmp_path, TINY)
    assert {path.name for path in (tmp_path / "hr").iterdir()} == {"coal"}


def test_the_current_folder_a_mount_point_and_a_url_are_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(packing, "find_sources", None)  # not reached
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    with pytest.raises(UserError, match="out is a mount point, which a finished set cannot replace; give"):
        build(tmp_path / "hr", tmp_path / "out", TINY)
    with pytest.raises(UserError, match="OUT=s3://b/x is a URL; give a new folder"):
        build(tmp_path / "hr", "s3://b/x", TINY)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(UserError, match=f"OUT={tmp_path / 'out'} is the folder you are in"):
        build(tmp_path / "hr", ".", TINY)


@pytest.mark.parametrize("made", [True, False], ids=["empty folder", "nothing yet"])
def test_a_link_as_out_leads_to_the_set(tmp_path, made):
    write_folder(tmp_path / "hr", {"coal": 4})
    (tmp_path / "disk").mkdir()
    if made:
        (tmp_path / "disk" / "set").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "set")
    build(tmp_path / "hr", tmp_path / "out", TINY)
    assert (tmp_path / "out").is_symlink() and verify(open_set(tmp_path / "out")) == []
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["set"]


def test_a_set_may_have_the_longest_name(tmp_path):
    out = tmp_path / ("o" * 255)
    build(write_folder(tmp_path / "hr", {"coal": 4}), out, TINY)
    assert open_set(out).manifest.totals and sorted(path.name for path in tmp_path.iterdir()) == [
        "hr",
        out.name,
    ]
