import contextlib
import hashlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import REPOSITORY, full_disk, read_only

from srgan_dist.storage.cache import Cache, Cancelled, cache_at
from srgan_dist.utils import locks
from srgan_dist.utils.errors import UserError


def name_of(content):
    return hashlib.sha256(content).hexdigest()


def maker(content, log=None):
    """Return a function that makes a copy from where its part ends."""

    def make(part, stop):
        with open(part, "ab") as file:
            if log is not None:
                log.append(file.tell())
            file.write(content[file.tell() :])

    return make


def read(cache, content, log=None, stop=None):
    with cache.open(name_of(content), len(content), maker(content, log), stop) as file:
        return file.read()


ONE, TWO, THREE = (bytes([number]) * 1000 for number in (1, 2, 3))


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 2500)


def held(cache):
    return {content[0] for content in (ONE, TWO, THREE) if cache.holds(name_of(content))}


def test_a_copy_is_made_once_and_is_the_only_file_left(cache):
    log = []
    assert read(cache, ONE, log) == read(cache, ONE, log) == ONE
    assert log == [0] and os.listdir(cache.folder) == [name_of(ONE)]


def test_the_least_recently_used_copy_is_evicted_first(cache):
    for content in (ONE, TWO):
        read(cache, content)
    os.utime(cache.folder / name_of(ONE), (1, 1))
    os.utime(cache.folder / name_of(TWO), (2, 2))
    read(cache, ONE)
    read(cache, THREE)
    assert held(cache) == {1, 3}


@pytest.mark.parametrize("mapped", [False, True])
def test_an_open_or_mapped_copy_is_not_evicted(cache, mapped):
    with cache.open(name_of(ONE), 1000, maker(ONE)) as file:
        kept = (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if mapped
            else os.fdopen(os.dup(file.fileno()))
        )
    read(cache, TWO)
    os.utime(cache.folder / name_of(ONE), (1, 1))
    read(cache, THREE)
    assert held(cache) == {1, 3}
    kept.close()
    os.utime(cache.folder / name_of(ONE), (1, 1))
    read(cache, TWO)
    assert held(cache) == {2, 3}


def test_without_room_the_setting_is_named(tmp_path):
    cache = Cache(tmp_path / "cache", 1500, room_seconds=0.3)
    with cache.open(name_of(ONE), 1000, maker(ONE)):
        words = r"data.cache_gib=1.39.*e-06: the copies in .*cache that are in use.* no room for 1,000 bytes"
        with pytest.raises(UserError, match=words):
            read(cache, TWO)
    assert read(cache, TWO) == TWO


def test_a_copy_larger_than_the_cache_is_refused_and_evicts_nothing(tmp_path):
    cache = Cache(tmp_path / "cache", 2500, room_seconds=0.3)
    read(cache, ONE)
    words = (
        r"data.cache_gib=2.32.*e-06 is less than a copy of 2,501 bytes takes; at least 2.33e-06 are needed"
    )
    with pytest.raises(UserError, match=words):
        read(cache, bytes(2501))
    assert held(cache) == {1}


def test_room_is_waited_for(tmp_path):
    cache = Cache(tmp_path / "cache", 1500)
    file = cache.open(name_of(ONE), 1000, maker(ONE))
    threading.Timer(0.3, file.close).start()
    assert read(cache, TWO) == TWO and held(cache) == {2}


def test_many_threads_get_one_copy(cache):
    log, found = [], []
    threads = [threading.Thread(target=lambda: found.append(read(cache, ONE, log))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ONE] * 8 and log == [0]


KILLED = """
import sys, time
from pathlib import Path
from srgan_dist.utils import locks
from srgan_dist.storage.cache import Cache
def make(part, stop):
    with open(part, "ab") as file:
        file.write(bytes([1]) * 400)
    print("half", flush=True)
    time.sleep(60)
Cache(Path(sys.argv[1]), 2500).open(sys.argv[2], 1000, make)
"""


def test_the_part_of_a_killed_process_is_resumed(cache):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(cache.folder), name_of(ONE)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert process.stdout.readline() == b"half\n"
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Cancelled):  # the other process holds the lock
            read(cache, ONE, stop=stop)
        process.send_signal(signal.SIGKILL)
        process.wait()
    log = []
    assert read(cache, ONE, log) == ONE and log == [400]


def test_abandoned_parts_are_evicted(cache):
    cache.folder.mkdir()
    part = cache.folder / f"{name_of(ONE)}.part"
    part.write_bytes(bytes(2000))
    os.utime(part, (1, 1))
    assert read(cache, TWO) == TWO and not part.exists()


def test_a_part_reserves_its_room_while_it_is_made(tmp_path):
    cache = Cache(tmp_path / "cache", 1500, room_seconds=0.3)

    def make(part, stop):
        with pytest.raises(UserError, match="no room"):
            read(cache, TWO)
        maker(ONE)(part, stop)

    cache.open(name_of(ONE), 1000, make).close()
    assert held(cache) == {1}


def test_a_part_does_not_become_a_copy_while_files_are_listed(cache):
    listing, begun = contextlib.ExitStack(), threading.Event()

    def make(part, stop):
        maker(ONE)(part, stop)
        listing.enter_context(locks.blocking_lock(cache.folder / "room.lock"))
        begun.set()

    thread = threading.Thread(target=lambda: cache.open(name_of(ONE), 1000, make).close())
    thread.start()
    begun.wait()
    thread.join(0.3)
    assert held(cache) == set()
    listing.close()
    thread.join()
    assert held(cache) == {1}


def test_a_failure_while_making_leaves_the_part_and_no_copy(cache):
    def make(part, stop):
        part.write_bytes(ONE[:300])
        raise UserError("the server is gone")

    with pytest.raises(UserError, match="the server is gone"):
        cache.open(name_of(ONE), 1000, make)
    assert os.listdir(cache.folder) == [f"{name_of(ONE)}.part"]


@pytest.mark.parametrize("what", ["the part", "everything", "the part, for a shorter one"])
def test_a_copy_is_made_again_while_somebody_empties_the_folder(cache, what):
    log = []

    def make(part, stop):
        maker(ONE, log)(part, stop)
        if len(log) < 3:
            shutil.rmtree(cache.folder) if what == "everything" else part.unlink()
            if what.endswith("one"):
                part.write_bytes(ONE[:1])

    with cache.open(name_of(ONE), len(ONE), make) as file:
        assert file.read() == ONE
    assert len(log) == 3 and os.listdir(cache.folder) == [name_of(ONE)]


def test_a_folder_that_is_emptied_again_and_again_is_named(cache):
    with pytest.raises(UserError, match=r"data.cache=.*cache cannot be written \(.*\.part"):
        cache.open(name_of(ONE), len(ONE), lambda part, stop: part.unlink())


def test_a_copy_of_another_size_is_made_again(cache):
    read(cache, ONE)
    os.truncate(cache.folder / name_of(ONE), 10)
    assert read(cache, ONE) == ONE


def test_other_files_are_left_alone(cache):
    cache.folder.mkdir()
    (cache.folder / "notes.txt").write_bytes(bytes(5000))
    read(cache, ONE)
    read(cache, TWO)
    read(cache, THREE)
    assert (cache.folder / "notes.txt").exists() and len(held(cache)) == 2


def test_a_disk_that_fills_up_while_a_copy_is_made(cache):
    words = r"data.cache=.*cache cannot be written \(.*File too large.*A copy needs 1,000 bytes"
    with full_disk(500), pytest.raises(UserError, match=words):
        read(cache, ONE)
    assert held(cache) == set()
    assert read(cache, ONE) == ONE


def test_a_full_disk_is_found_before_anything_is_fetched(cache, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=999))
    log = []
    with pytest.raises(UserError, match="the disk has 999 bytes free, the next copy needs 1,000"):
        read(cache, ONE, log)
    assert log == []


def test_a_read_only_cache_serves_what_it_has_and_refuses_the_rest(open_folder):
    cache = Cache(open_folder / "cache", 2500)
    read(cache, ONE)
    os.chmod(cache.folder / name_of(ONE), 0o444)
    with read_only(cache.folder):
        assert read(cache, ONE) == ONE
        with pytest.raises(
            UserError, match="data.cache=.* cannot be written .*Permission denied.*Restore the right"
        ):
            read(cache, TWO)


def test_a_folder_that_may_not_be_searched_is_named(open_folder):
    cache = Cache(open_folder / "cache", 2500)
    cache.folder.mkdir(0o700)
    with read_only(cache.folder, 0):
        assert not cache.holds(name_of(ONE))
        with pytest.raises(UserError, match="data.cache=.*cache: .* cannot be read .*Permission denied"):
            read(cache, ONE)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.cache=.*file.*cannot be"):
        read(Cache(tmp_path / "file", 2500), ONE)


def test_the_folder_is_the_users_own_unless_given(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (cache_at().folder, cache_at().limit) == (tmp_path / "srgan_dist", 50 * 2**30)
    assert cache_at("~/copies", 0.5).folder == Path.home() / "copies" and cache_at("x", 0.5).limit == 2**29
