"""What holds after every event of the soak. Each check yields one text per fault."""

import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

from srgan_dist.data.sampler import slots_of
from srgan_dist.models.weights_file import load_generator
from srgan_dist.run.checkpoint import list_checkpoints, newest_checkpoint, read_state
from srgan_dist.tracking.tracker import X_AXIS

ENDING_SECONDS = 60  # that docs/reliability.md gives the processes of a failed training
MIB = 2**20
KNOWN = re.compile(  # files that may be left by a kill, until the next process that writes there
    r"\..+\.[0-9a-f]{8}\.unfinished|step-\d+(\.old)?(\.leaving)?\.unfinished|step-\d+\.old"
    r"|[0-9a-f]{64}[a-z]*\.(part|lock)|room\.lock"
)
BEGUN = re.compile(r"[0-9a-f]{64}[a-z]*\.part")  # a copy that an end cancels is completed by the next start


# Processes


def descendants(pid):
    """Return {pid: command line} of the processes below one, without those that have ended."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(stat.parent.name)] = int(parent)
        except OSError:  # it ends
            continue
    found, last = set(), {pid}
    while last := {child for child, parent in parents.items() if parent in last}:
        found |= last
    return {child: command_line(child) for child in found}


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:
        return ""


def leftover_processes(pid, allowed, seconds=ENDING_SECONDS):
    """Processes below `pid` that are not `allowed` and outlive a time; they are killed."""
    deadline = time.monotonic() + seconds
    while (left := descendants(pid).keys() - allowed) and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in left:
        yield f"process {each} is left: {command_line(each)}"
        os.kill(each, signal.SIGKILL)


@contextlib.contextmanager
def suspended(pids, seconds=10):
    """Suspend processes while the block runs."""
    send(signal.SIGSTOP, pids)
    try:
        deadline = time.monotonic() + seconds
        while any(map(runs, pids)) and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        send(signal.SIGCONT, pids)


def runs(pid):
    """Return whether a thread of a process is neither suspended nor ended."""
    try:
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one ends
        return True
    return any(thread.rpartition(")")[2].split()[0] not in "TZX" for thread in threads)


def send(number, pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended by itself
            continue


class Memory:
    """The memory of processes that run for long: `growth` bytes more than after their warm-up, or than at the
    last fault, are a fault.
    """

    def __init__(self, growth=32 * MIB):
        self.growth, self.first, self.last = growth, {}, {}

    def grown(self, pids):
        """Take the memory of some processes; the first time it becomes their measure."""
        for pid in pids:
            self.last[pid] = used = anonymous_bytes(pid)
            if used > self.first.setdefault(pid, used) + self.growth:
                yield f"process {pid} has grown from {self.first[pid] // MIB} to {used // MIB} MiB"
                self.first[pid] = used


def anonymous_bytes(pid):
    """Return the bytes of memory of a process that are no pages of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


# Files


def leftover_files(*folders, known=None):
    """Hidden, temporary and unfinished files; the lock of a run, which stays, is none.

    known: pattern of names that may be left, of folders with all that is in them.
    """
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if known and any(map(known.fullmatch, path.relative_to(folder).parts)):
                continue
            hidden = path.name.startswith(".") and path.name != ".lock"
            if hidden or path.suffix in (".unfinished", ".part", ".old", ".tmp") or _is_lock_of_copy(path):
                yield f"{path} is left"


def _is_lock_of_copy(path):
    return path.suffix == ".lock" and path.name != ".lock"


def any_files(folder):
    """Files and folders in TMPDIR, which ends empty."""
    for path in sorted(Path(folder).iterdir()):
        yield f"{path} is left"


# A run


def wrong_records(run, batch_size):
    """Lines of metrics.jsonl that are doubled, out of order, cut off or missing: every update has one."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    lines = path.read_text().split("\n")
    if lines.pop():
        yield f"{path}: its last line has no end"
    records = [json.loads(line) for line in lines]
    seen = [record[X_AXIS] for record in records]
    if seen != sorted(seen):
        yield f"{path}: samples_seen does not ascend"
    updates = [record[X_AXIS] / batch_size for record in records if "loss/generator" in record]
    if updates != list(range(1, len(updates) + 1)):
        yield f"{path}: its records are of updates {updates}"
    validations = [(record[X_AXIS], name) for record in records for name in record if name.endswith("/psnr")]
    if doubled := [each for each, times in Counter(validations).items() if times > 1]:
        yield f"{path}: recorded twice: {doubled}"
    newest = newest_checkpoint(run / "checkpoints")
    if newest and newest[1]["global_step"] > len(updates):
        yield f"{path} ends with update {len(updates)}, {newest[0].name} is saved"


def damaged_files(run, known=None):
    """Checkpoints and weights that are not whole; known: a checkpoint that was damaged on purpose."""
    for path in list_checkpoints(run / "checkpoints"):
        if path != known:
            yield from fault_of(read_state, path)
    for path in run.glob("weights/**/[!.]*.safetensors"):
        yield from fault_of(load_generator, path)


def fault_of(act, path):
    try:
        act(path)
    except Exception as error:  # whatever it is, it is a fault
        yield f"{path}: {type(error).__name__}: {error}"


def wrong_order(seen, count, batch_size, updates, ranks=2, micro_batches=1, finished=True):
    """Epochs of a run of `updates` in which not every image came once, of an unfinished one in which one
    came twice; count: of images.

    seen: folder of the notes of soak_rank.py. A batch that was taken again after a kill has to be the same.
    """
    noted = {}
    for rank in range(ranks):
        path = seen / f"{rank}.jsonl"
        for line in path.read_text().splitlines() if finished or path.exists() else ():
            update, micro_batch, images = json.loads(line)
            if noted.setdefault((update, micro_batch, rank), images) != images:
                yield f"rank {rank} took other images for update {update} once it was repeated"
    order = [None] * updates * batch_size
    for (update, micro_batch, rank), images in noted.items():
        for slot, image in zip(
            slots_of(update, rank, ranks, batch_size, micro_batches, micro_batch), images, strict=True
        ):
            if slot < len(order):
                order[slot] = image
    for start in range(0, len(order) - count + 1, count):
        epoch = order[start : start + count]
        taken = [image for image in epoch if image is not None]
        missing = finished and (len(taken) < count or set(epoch) != set(order[:count]))
        if missing or len(set(taken)) < len(taken):
            yield f"epoch {start // count} had the images {epoch}"


def differences(found, expected):
    """What differs between the `contents` (whole_runs.py) of a finished run and of an undisturbed one."""
    last = max(expected["checkpoints"])
    if last not in found["checkpoints"]:
        yield f"there is no {last}"
    if missing := expected["weights"].keys() - found["weights"].keys():
        yield f"there is no {sorted(map(str, missing))}"
    for kind in ("weights", "checkpoints", "states"):
        for name in found[kind].keys() & expected[kind].keys():
            if found[kind][name] != expected[kind][name]:
                yield f"{name} ({kind}) is not that of the undisturbed run"
    for one, other in zip(found["records"], expected["records"]):
        if one != other:
            yield f"a record is {one}, in the undisturbed run {other}"
            break
    if len(found["records"]) != len(expected["records"]):
        yield f"{len(found['records'])} records, in the undisturbed run {len(expected['records'])}"
