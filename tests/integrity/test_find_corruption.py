"""What can go wrong with shards and processes, and which check finds it: nothing vanishes in silence."""

import os
import re
import shutil

import numpy as np
import pytest
from corruption import CPU, config_of, cut, damaged_shard, flip, full, said, verify, write
from packed_sets import edit_rows
from test_audit import swap_places

from srgan_dist.data.reader import Reader
from srgan_dist.data.sample import BLOCK
from srgan_dist.data.split import open_split
from srgan_dist.evaluation.scoring import methods_of, score_split
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError


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


NO_HEADER = r"train-000001.tar: at offset \d+ is no tar header"


# name: (damage, words of the size check, of the full one, of summarize --verify); None: undetected by it
DAMAGES = {
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
        rf"{SHA} \(at offset 0 is the file '.*' of 5888 bytes, the index has the file '",
    ),
    "a header overwritten": (
        write(lambda s: s.begins, b"\xa5" * BLOCK),
        None,
        NO_HEADER,
        rf"{SHA} \(at offset \d+ is no tar header",
    ),
    "a header zeroed": (
        write(lambda s: s.begins, bytes(BLOCK)),
        None,
        NO_HEADER,
        rf"{SHA} \(at offset \d+ is no tar header",
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
        rf"{SHA} \(.* is no JSON",
    ),
    "padding": (
        write(lambda s: s.begins - 1, b"!"),
        None,
        r"after '\w+.lr.npy', at offset \d+, are bytes that are no padding",
        rf"{SHA} \(after '\w+.lr.npy', at offset \d+, are bytes that are no",
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
        r"train-000000.tar: at offset 0 is the file '.*' of 5888 bytes, the index has the file",
    ),
}


def sizes(config):
    """Check data as a training with data.verify=size does before it begins."""
    preflight(config)


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


@pytest.mark.parametrize("read", ["image", "corruption"])
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
    with pytest.raises(UserError, match="valid-000000.tar was changed while it was in use"):
        score_split(split, methods_of({}, 4, CPU), 0, 1, CPU)
