import subprocess
import sys
import threading

import pytest

from srgan_dist.utils import locks
from srgan_dist.utils.errors import UserError


def test_a_held_lock_is_an_error_and_keeps_its_content(tmp_path):
    path = tmp_path / "lock"
    with locks.file_lock(path, "it is held"):
        path.write_text("process 7")
        with pytest.raises(UserError, match="it is held"), locks.file_lock(path, "it is held"):
            pass
        with locks.try_lock(path) as lock:
            assert lock is None
        assert path.read_text() == "process 7"
    with locks.file_lock(path, "it is held"):
        assert path.read_text() == "process 7"


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys\nfrom srgan_dist.utils.locks import output_lock\n"
        "with output_lock(sys.argv[1], 'out'):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "lock"]).returncode == 9
    with locks.output_lock(tmp_path / "lock", "out"):
        with pytest.raises(UserError, match="another build is writing OUT=out; wait .*delete .*lock"):
            with locks.output_lock(tmp_path / "lock", "out"):
                pass


def test_a_blocking_lock_waits_and_its_file_goes(tmp_path):
    path, order = tmp_path / "lock", []

    def wait():
        with locks.blocking_lock(path) as lock:
            order.append(lock is not None)

    with locks.blocking_lock(path):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        order.append("released")
    thread.join()
    assert order == ["released", True] and not path.exists()


def test_waiting_can_be_cancelled(tmp_path):
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with locks.try_lock(tmp_path / "lock"), locks.blocking_lock(tmp_path / "lock", stop) as lock:
        assert lock is None


def test_an_exclusive_lock_needs_a_file_that_nobody_shares(tmp_path):
    (tmp_path / "file").touch()
    with open(tmp_path / "file") as one, open(tmp_path / "file") as two, open(tmp_path / "file") as three:
        locks.shared_lock(one)
        locks.shared_lock(two)
        assert not locks.exclusive_lock(three)
        one.close()
        two.close()
        assert locks.exclusive_lock(three)


def test_a_removed_file_has_no_path_any_more(tmp_path):
    path = tmp_path / "file"
    with open(path, "w") as file:
        assert locks.has_path(file.fileno(), path)
        path.unlink()
        assert not locks.has_path(file.fileno(), path)
        path.touch()
        assert not locks.has_path(file.fileno(), path)


def test_without_locks_of_the_system_only_output_is_protected_by_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    path = tmp_path / "lock"
    with locks.file_lock(path, "held"), locks.file_lock(path, "held"), locks.try_lock(path) as lock:
        assert lock is not None
    assert not path.exists()
    with locks.output_lock(path, "out"), pytest.raises(UserError, match="another build is writing OUT=out"):
        with locks.output_lock(path, "out"):
            pass
