import os
from types import SimpleNamespace

import torch
from conftest import tiny_config
from packed_sets import edit_manifest

from srgan_dist.data.sample import BLOCK
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity import audit
from srgan_dist.integrity.find_corruption import check_corruption_limit
from srgan_dist.run.preflight import preflight
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of

CPU = torch.device("cpu")


def config_of(folder, **data):
    return tiny_config(
        folder,
        folder.parent / "runs",
        adversarial=None,
        data={"path": str(folder), "lr_crop": 8, "batch_size": 4} | data,
    )


def damaged_shard(folder):
    """Return the second train shard of a set, and the offset of its second sample, for the damages below."""
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


def verify(address):
    """Verify a set as shards/summarize.py --verify does."""
    return audit.verify(open_set(address))


def full(config):
    """Check data as a training with data.verify=full does before it begins."""
    prepared = preflight(config)
    check_corruption_limit(prepared.train, prepared.eval_splits.values(), config.data.max_bad_samples)


def said(check, *arguments):
    """Return the findings of a check as text, or None."""
    try:
        return "\n".join(check(*arguments) or ()) or None
    except UserError as error:
        return str(error)


def trust_shard(folder):
    path = folder / "train-000000.tar"
    facts = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(folder, lambda manifest: manifest["splits"]["train"]["shards"][0].update(facts))
