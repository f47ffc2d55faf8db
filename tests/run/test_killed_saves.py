"""A save that is killed leaves the checkpoint before it or the new one, and never changes the result."""

import json
import shutil
import sys

import pytest
import torch
from commands import run, write_config
from conftest import REPOSITORY
from whole_runs import config_of, contents, on_cpu_and_quick, train_undisturbed

from srgan_dist.run import checkpoint
from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, read_state, save_checkpoint
from srgan_dist.training import train
from srgan_dist.utils import files, tensor_files

SAVING = {module.__file__ for module in (checkpoint, files, tensor_files, shutil)}


@pytest.fixture(autouse=True)
def surroundings():
    with on_cpu_and_quick():
        yield


def save(folder, name, number, keep=2):
    save_checkpoint(folder, name, {"network": torch.nn.Linear(2, 3)}, {"name": name, "number": number}, keep)


def states_during(act, folder, copies):
    """Return copies of a folder as a kill before each line of the code that saves leaves it; the number of
    lines.
    """
    states, lines = [], 0

    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename not in SAVING:
            return None
        if event == "line":
            lines += 1
            found = {path: path.stat() for path in folder.rglob("*")}
            state = {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}
            if not states or states[-1][0] != state:
                states.append((state, shutil.copytree(folder, copies / f"{lines:04d}")))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return [copy for _, copy in states], lines


@pytest.mark.parametrize("name", ["step-3", "step-2"], ids=["beside others", "in the place of the only one"])
def test_a_save_that_is_killed_at_any_line_leaves_the_checkpoint_before_it_or_the_new_one(tmp_path, name):
    folder, replacing = tmp_path / "checkpoints", name == "step-2"
    for number in (2,) if replacing else (1, 2):
        save(folder, f"step-{number}", number)
    states, lines = states_during(lambda: save(folder, name, 3), folder, tmp_path)
    found = []
    for state in states:
        path, content = newest_checkpoint(state)
        assert path.name == content["name"] or (replacing and path.name == f"{name}.old")
        for each in list_checkpoints(state):
            read_state(each)  # none is half written
        found.append(content["number"])
        save(state, "step-4", 4, keep=1)
        assert [path.name for path in state.iterdir()] == ["step-4"]
    assert found == sorted(found) and set(found) == {2, 3}
    assert lines > 100 and len(states) > 10


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    return train_undisturbed(shards, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "kills, inside, at_updates",
    [pytest.param(12, 3, 3, marks=pytest.mark.slow), pytest.param(50, 15, 6, marks=pytest.mark.nightly)],
)
def test_kills_half_of_them_inside_a_save_never_lose_a_checkpoint_or_change_the_result(
    shards, whole, tmp_path, kills, inside, at_updates
):
    path = write_config(tmp_path, config_of(shards, tmp_path, keep_checkpoints=2))
    done = run(sys.executable, REPOSITORY / "tests" / "killing.py", path, kills)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == kills and report["inside"] >= inside
    assert len(set(report["updates"])) >= at_updates
    expected, kept = contents(whole), {"step-00000009", "step-00000014", "step-00000015"}
    for run_directory in (tmp_path / name for name in report["runs"]):
        found = contents(run_directory)
        assert kept <= set(found["checkpoints"])  # more if killed in the last removal
        assert found == expected | {
            kind: {name: expected[kind][name] for name in found[kind]} for kind in ("checkpoints", "states")
        }
        unfinished = [
            path for path in run_directory.rglob("*.unfinished") if path.parent.name != "checkpoints"
        ]
        assert unfinished == []


def test_what_a_killed_removal_left_goes_when_the_finished_run_is_opened_again(shards, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    left = tmp_path / "run" / "checkpoints" / "step-00000001.leaving.unfinished"
    left.mkdir()
    (left / "state.json").touch()
    train(config_of(shards, tmp_path))
    assert not left.exists() and contents(tmp_path / "run") == contents(whole)
