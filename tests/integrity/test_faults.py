"""What can go wrong with shards and processes, and which check finds it: nothing vanishes in silence."""

import bz2
import ctypes
import gzip
import io
import lzma
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_config
from test_audit import swap_places
from test_index import edit_manifest, edit_rows

from srgan_dist.config import dump_config
from srgan_dist.data.loader import TrainLoader
from srgan_dist.data.reader import Reader
from srgan_dist.data.sample import BLOCK, padded
from srgan_dist.data.split import open_set, open_split
from srgan_dist.evaluation.scoring import methods_of, score_split
from srgan_dist.integrity import audit
from srgan_dist.integrity.find_corruption import check_corruption_limit
from srgan_dist.run.checkpoint import newest_checkpoint
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "set")


def config_of(folder, **data):
    return tiny_config(
        folder,
        folder.parent / "runs",
        adversarial=None,
        data={"path": str(folder), "lr_crop": 8, "batch_size": 4} | data,
    )


# CorruptSample


def damaged_shard(folder):
    """Return what the damages below need to know: the second train shard and where its second sample lies."""
    split = open_split(folder, "train")
    first, second = split.rows[split.rows["shard"] == 1][:2]
    begins = int(second["hr_offset"]) // BLOCK * BLOCK - BLOCK
    return SimpleNamespace(
        path=split.shards[1], first=first, second=second, begins=begins, folder=folder, split=split
    )


def cut(where):
    return lambda shard: os.truncate(shard.path, where(shard))


def write(where, content):
    """Write bytes over those of a shard."""

    def change(shard):
        data, at = bytearray(shard.path.read_bytes()), where(shard)
        data[at : at + len(content)] = content
        shard.path.write_bytes(data)

    return change


def flip(side):
    def change(shard):
        data, at = bytearray(shard.path.read_bytes()), int(shard.second[f"{side}_offset"]) + 9
        data[at] ^= 1
        shard.path.write_bytes(data)

    return change


def take_the_content_of(number):
    """Put another shard of the set in the place of the damaged one."""
    return lambda shard: shutil.copy(shard.split.shards[number], shard.path)


def spoil_index(shard):
    path = shard.folder / "train.index.npy"
    rows = np.load(path)
    rows["hr_offset"][0] += BLOCK
    np.save(path, rows)


SIZES = r"train-000001.tar has \d+ bytes, the manifest says \d+"
SHA = r"train-000001.tar: sha256 differs from the manifest"
OTHER_INDEX = r"train.index.npy is not the index that the manifest names \(sha256 differs\)"


def verify(address):
    """Do what shards/summarize.py --verify does."""
    return audit.verify(open_set(address))


NO_HEADER = r"train-000001.tar: at offset \d+ lies no tar header"
DAMAGES = {  # name: (damage, words of the size check, of the full one, of summarize --verify); None: it cannot see it
    "cut inside a header": (cut(lambda s: s.begins + 100), SIZES, SIZES, SIZES),
    "cut between samples": (cut(lambda s: s.begins), SIZES, SIZES, SIZES),
    "cut between HR and LR": (cut(lambda s: int(s.second["record_offset"]) - BLOCK), SIZES, SIZES, SIZES),
    "cut inside pixels": (cut(lambda s: int(s.second["lr_offset"]) + 50), SIZES, SIZES, SIZES),
    "empty": (cut(lambda s: 0), SIZES, SIZES, SIZES),
    "missing": (
        lambda s: s.path.unlink(),
        *3 * ["train-000001.tar is missing although the manifest lists it"],
    ),
    "another file of another size": (take_the_content_of(0), SIZES, SIZES, SIZES),
    "another file of the same size": (
        take_the_content_of(2),
        None,
        r"\w+ has other (HR|LR) pixels at offset \d+",
        rf"{SHA} \(at offset 0 lies the file '.*' of 5888 bytes, the index has the file '",
    ),
    "a header overwritten": (
        write(lambda s: s.begins, b"\xa5" * BLOCK),
        None,
        NO_HEADER,
        rf"{SHA} \(at offset \d+ lies no tar header",
    ),
    "a header zeroed": (
        write(lambda s: s.begins, bytes(BLOCK)),
        None,
        NO_HEADER,
        rf"{SHA} \(at offset \d+ lies no tar header",
    ),
    "a bit of HR": (
        flip("hr"),
        None,
        r"\w+ has other HR pixels at offset \d+",
        rf"{SHA} \(\w+ has other HR pixels",
    ),
    "a bit of LR": (
        flip("lr"),
        None,
        r"\w+ has other LR pixels at offset \d+",
        rf"{SHA} \(\w+ has other LR pixels",
    ),
    "a byte of the record": (
        write(lambda s: int(s.second["record_offset"]), b"["),
        None,
        None,
        rf"{SHA} \(WebDataset cannot",
    ),
    "padding": (
        write(lambda s: s.begins - 1, b"!"),
        None,
        r"after '\w+.lr.npy', at offset \d+, lies what is no padding",
        rf"{SHA} \(after '\w+.lr.npy', at offset \d+, lies what is no",
    ),
    "the end": (
        write(lambda s: s.path.stat().st_size - 1, b"!"),
        None,
        r"at offset \d+, after the last sample of the index",
        rf"{SHA} \(at offset \d+, after the last sample",
    ),
    "an index of other bytes": (spoil_index, OTHER_INDEX, OTHER_INDEX, OTHER_INDEX),
    "an index that fits but points elsewhere": (
        lambda s: edit_rows(s.folder, swap_places),
        None,
        r"\w+ has other (HR|LR) pixels at offset \d+",
        r"train-000000.tar: at offset 0 lies the file '.*' of 5888 bytes, the index has the file",
    ),
}


def sizes(config):
    """Do what a training does with data.verify=size before it begins."""
    preflight(config)


def full(config):
    """Do what a training does with data.verify=full before it begins."""
    prepared = preflight(config)
    check_corruption_limit(prepared.train, prepared.eval_splits.values(), config.data.max_bad_samples)


def said(check, *arguments):
    """Return what a check finds, in words, or None."""
    try:
        return "\n".join(check(*arguments) or ()) or None
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", DAMAGES)
def test_what_each_check_says_of_a_damage(copy, name):
    damage, *words = DAMAGES[name]
    damage(damaged_shard(copy))
    checks = (sizes, config_of(copy)), (full, config_of(copy, verify="full")), (verify, copy)
    for word, found in zip(words, [said(*check) for check in checks], strict=True):
        if word is None:
            assert found is None
        else:
            assert re.search(word, found)


def test_a_training_begins_only_when_its_check_finds_nothing(copy):
    shard = damaged_shard(copy)
    assert train(config_of(copy, verify="full")).state.global_step == 6
    flip("hr")(shard)
    with pytest.raises(UserError, match="1 training and 0 validation or test samples are damaged"):
        train(config_of(copy, verify="full").model_copy(update={"name": "other"}))
    assert not (copy.parent / "runs" / "other").exists()


@pytest.mark.parametrize(
    "left, words",
    [
        (0, "train-000001.tar is empty"),
        (2000, "train-000001.tar ends at 2000 bytes, before the pixels of "),
    ],
)
def test_without_any_check_a_short_shard_is_named_when_it_is_read(copy, left, words):
    os.truncate(damaged_shard(copy).path, left)
    with pytest.raises(UserError, match=words):
        train(config_of(copy, verify="none"))


@pytest.mark.parametrize("read", ["image", "damage"])
def test_a_shard_that_is_cut_while_mapped_is_named_by_validation_and_verification_too(copy, read):
    shard = damaged_shard(copy)
    reader, i = Reader(shard.split), int(np.flatnonzero(shard.split.rows["shard"] == 1)[0])
    getattr(reader, read)(i)
    os.truncate(shard.path, 0)
    with pytest.raises(UserError, match="train-000001.tar has been cut while it was read"):
        getattr(reader, read)(i)


def test_a_shard_that_is_cut_between_two_validations_is_named(copy):
    split = open_split(copy, "valid")
    score_split(split, methods_of({}, 4, CPU), 0, 1, CPU)
    os.truncate(split.shards[0], 2000)
    with pytest.raises(UserError, match="valid-000000.tar ends at 2000 bytes, before the pixels of "):
        score_split(split, methods_of({}, 4, CPU), 0, 1, CPU)


# Shards of which only the structure is wrong: the manifest fits, and so do the pixels at the places of the index


def members_of(path):
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def repack(folder, change, format=tarfile.USTAR_FORMAT):
    """Rewrite the first train shard: change(members) returns those it has from now on, index and manifest follow."""
    path = folder / "train-000000.tar"
    data, places = b"", {}
    for member, content in change(members_of(path)):
        data += member.tobuf(format)
        places[os.path.basename(member.name)] = len(data), content
        data += content + bytes(padded(len(content), BLOCK) - len(content))
    path.write_bytes(data + bytes(padded(len(data) + 2 * BLOCK, 20 * BLOCK) - len(data)))

    def follow(rows):
        for row in rows[rows["shard"] == 0]:
            i = rows["key"].tolist().index(row["key"])
            for side in ("hr", "lr"):
                start, content = places[f"{row['key'].decode()}.{side}.npy"]
                rows[f"{side}_offset"][i] = start + 128
                rows[f"{side}_crc32"][i] = zlib.crc32(content[128:])
            rows["record_offset"][i] = places[f"{row['key'].decode()}.json"][0]

    edit_rows(folder, follow)
    trust_shard(folder)


def trust_shard(folder):
    path = folder / "train-000000.tar"
    facts = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(folder, lambda manifest: manifest["splits"]["train"]["shards"][0].update(facts))


def extra(name, place, content=b"", **facts):
    """Add a member in front of the one of that number; {} in the name is the key of the first sample."""

    def change(members):
        member = tarfile.TarInfo(name.format(members[0][0].name.partition(".")[0]))
        member.size = len(content)
        for fact, value in facts.items():
            setattr(member, fact, value)
        return [*members[:place], (member, content), *members[place:]]

    return change


def retyped(kind):
    """Make the first HR image of another kind than a file, its bytes as they were."""

    def change(members):
        members[0][0].type = kind
        return members

    return change


def renamed(members):
    for member, _ in members[:3]:
        member.name = f"../{member.name}"
    return members


def headed(**facts):
    """Give the first HR image another NPY header of the same length."""

    def change(members):
        member, content = members[0]
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "|u1", "fortran_order": False, "shape": (72, 80)} | facts
        )
        assert len(head.getvalue()) == 128
        return [(member, head.getvalue() + content[128:]), *members[1:]]

    return change


def versioned(members):
    (member, content), *rest = members
    return [(member, content[:6] + b"\1\7" + content[8:]), *rest]


def sparse_by_pax(members):
    members[0][0].pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "10",
    }
    return members


NPY_HEADER = r"'\w+.hr.npy' does not begin, at offset 512, with the NPY header of the image in the index"
STRUCTURES = {  # name: (change of the members, words of both checks)
    "a member of its own key": (
        extra("stranger.txt", 3, b"x"),
        r"lies the file 'stranger.txt' of 1 bytes, the index has the file",
    ),
    "a member of a sample's key": (
        extra("{}.txt", 3, b"x"),
        r"lies the file '\w+.txt' of 1 bytes, the index has the file",
    ),
    "a hidden member": (
        extra("__meta__/x", 0, b"x"),
        r"at offset 0 lies the file '__meta__/x' of 1 bytes, the index",
    ),
    "a member at the end": (
        extra("{}.txt", 9, b"x"),
        r"at offset \d+, after the last sample of the index, lies the file",
    ),
    "a folder": (extra("folder", 3, type=tarfile.DIRTYPE), "lies the folder 'folder'"),
    "a symbolic link": (
        extra("link", 3, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "lies the symbolic link 'link'",
    ),
    "a hard link": (
        extra("link", 0, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        "at offset 0 lies the hard link 'link'",
    ),
    "a device": (extra("device", 3, type=tarfile.CHRTYPE), "lies a member of type b'3' 'device'"),
    "an image as hard link": (retyped(tarfile.LNKTYPE), r"at offset 0 lies the hard link '\w+.hr.npy'"),
    "an image as symbolic link": (
        retyped(tarfile.SYMTYPE),
        r"at offset 0 lies the symbolic link '\w+.hr.npy'",
    ),
    "a sparse image (GNU)": (
        retyped(tarfile.GNUTYPE_SPARSE),
        r"at offset 0 lies the sparse file '\w+.hr.npy'",
    ),
    "a sparse image (PAX)": (sparse_by_pax, r"at offset 0 lies the PAX header '"),
    "a way out as an extra": (extra("../../evil.txt", 3, b"x"), r"lies the file '../../evil.txt' of 1 bytes"),
    "a way out as a sample": (renamed, r"at offset 0 lies the file '../\w+.hr.npy'"),
    "a huge image": (headed(shape=(2**40, 2**40)), NPY_HEADER),
    "a transposed image": (headed(fortran_order=True), NPY_HEADER),
    "an image of another NPY version": (versioned, NPY_HEADER),
    "an image of objects": (headed(descr="|O"), NPY_HEADER),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_shard_that_is_more_than_plain_samples_is_named(copy, name):
    change, words = STRUCTURES[name]
    repack(copy, change, tarfile.PAX_FORMAT if "PAX" in name else tarfile.USTAR_FORMAT)
    (fault,) = verify(copy)
    assert fault.startswith(f"{copy / 'train-000000.tar'}: ") and re.search(words, fault)
    assert re.search(words, said(full, config_of(copy, verify="full")))


def test_the_shards_that_are_made_here_are_else_in_order(copy):
    repack(copy, lambda members: members)
    assert verify(copy) == []


@pytest.mark.parametrize(
    "compress, words", [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_a_compressed_shard_is_found_by_both_checks(copy, compress, words):
    path = copy / "train-000000.tar"
    path.write_bytes(compress(path.read_bytes()) + bytes(10**5))  # room for the places of the index
    trust_shard(copy)
    (fault,) = verify(copy)
    assert f"{path}: at offset 0 lies what {words} has compressed" in fault
    assert re.search(
        r"train-000000.tar: \w+ has other (HR|LR) pixels at offset",
        said(full, config_of(copy, verify="full")),
    )


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_of_a_shard_or_index_is_ever_loaded(copy, tmp_path):
    bait = tmp_path / "loaded"

    def poison(members):
        encoding = pickle.dumps(Evil(bait))
        (member, content), *rest = headed(descr="|O", shape=(1,))(members)
        return [(member, content[:128] + encoding + content[128 + len(encoding) :]), *rest]

    repack(copy, poison)
    assert re.search(NPY_HEADER, verify(copy)[0])
    train(config_of(copy))
    assert not bait.exists()
    np.save(copy / "train.index.npy", np.array([Evil(bait)], object), allow_pickle=True)
    bait.unlink(missing_ok=True)
    facts = {
        "bytes": (copy / "train.index.npy").stat().st_size,
        "sha256": sha256_of(copy / "train.index.npy"),
    }
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["index"].update(facts))
    for check in (verify, preflight):
        with pytest.raises(UserError, match="train.index.npy cannot be read: Object arrays cannot be loaded"):
            check(copy if check is verify else config_of(copy))
    assert not bait.exists()


# A thread that dies


def end_thread(thread):
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        == 1
    )


def test_a_reading_thread_that_is_killed_is_an_error_and_no_hang(train_split):
    batches = TrainLoader([(train_split, 1.0)], 8, 6, 0, "all", 0, 1, CPU).batches(0)
    next(batches)
    end_thread(next(thread for thread in threading.enumerate() if thread.name == "read-ahead"))
    with pytest.raises(RuntimeError, match="the thread that reads ahead was ended"):
        for _ in range(9):
            next(batches)


@pytest.mark.parametrize("error", [SystemExit(0), MemoryError("no room"), KeyboardInterrupt()])
def test_whatever_ends_the_filling_of_a_batch_reaches_the_training(train_split, monkeypatch, error):
    source = TrainLoader([(train_split, 1.0)], 8, len(train_split), 0, "all", 0, 1, CPU)  # an epoch per batch
    fill, filled = source.readers[0].batch, []

    def fill_twice(*arguments):
        filled.append(fill(*arguments))
        if len(filled) == 3:
            raise error

    monkeypatch.setattr(source.readers[0], "batch", fill_twice)
    batches = source.batches(0)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(
        MemoryError if isinstance(error, MemoryError) else RuntimeError,
        match="no room|thread that reads ahead was ended",
    ):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


# Ctrl-C

INTERRUPTING = """
import os, runpy, signal, sys

_, moment, count, *sys.argv = sys.argv
left = int(count)

def watch(frame, event, argument):
    global left
    if event == "return" and frame.f_code.co_qualname == moment:
        left -= 1
        if not left:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)

import srgan_dist.training
sys.setprofile(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "moment, count, code, updates",
    [
        ("Reader.damage", 4, 130, None),  # verification, before there is anything to save
        ("PretrainPhase.update", 1, 85, 1),  # the first batch
        ("score_split", 1, 85, 3),  # the validation after update 3
        ("CheckpointWriter.start", 1, 85, 3),  # while the first checkpoint is written, after update 2
        ("Validator.validate", 2, 0, 6),  # at the end of the last phase: the training is done
    ],
)
def test_ctrl_c_at_any_moment_waits_for_a_checkpoint_and_the_run_continues(
    shards, tmp_path, moment, count, code, updates
):
    config = tiny_config(
        shards,
        tmp_path,
        adversarial=None,
        checkpoint_every=2,
        validate_every=3,
        data={"path": str(shards), "lr_crop": 8, "batch_size": 4, "verify": "full"},
    )
    (tmp_path / "config.yaml").write_text(dump_config(config))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, moment, str(count), "launch/train.py", tmp_path / "config.yaml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert (code == 130) == done.stderr.endswith("interrupted\n")
    run = tmp_path / "tiny"
    found = newest_checkpoint(run / "checkpoints")
    assert (found and found[1]["global_step"]) == updates
    assert (run / "weights" / "pretrain.safetensors").exists() == (code == 0)
    assert train(config).state.finished == ["pretrain"]
    assert not list(run.rglob("*.unfinished*"))
