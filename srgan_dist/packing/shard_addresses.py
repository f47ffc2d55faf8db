"""The shards that options and settings name: paths, globs, brace expressions and URLs."""

import os
import re
from glob import glob
from itertools import takewhile

from webdataset.shardlists import braceexpand

from srgan_dist.data.manifest import MOST_SHARDS
from srgan_dist.packing.scan_folder import resembles_split
from srgan_dist.storage.remote import is_url
from srgan_dist.utils.errors import UserError, masked

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")


def expand_shards(option, addresses):
    """Return the paths or URLs that brace expressions, globs, paths and URLs stand for; raises UserError for
    none, and for pipes. option: that names them, as --train.
    """
    found = []
    for address in addresses:
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?", address)
        if (
            scheme
            and not os.path.exists(address)
            and (not scheme[2] or scheme[1].lower() in ("pipe", "file"))
        ):
            raise UserError(
                f"{option} {address}: shards are named by paths, or URLs such as https://HOST/FOLDER/0.tar;"
                " no command is run to read them"
            )
        found += [address] if os.path.exists(address) else _expanded(option, address)
    for address in filter(is_url, found):
        if masked(address) != address:
            raise UserError(
                f"{option} {address}: a user, a password, ? and # would be stored with the set or the run;"
                " remove them, and put secrets where the protocol looks for them, e.g. ~/.netrc or"
                " ~/.aws/credentials"
            )
    if 0 < sum(map(is_url, found)) < len(found):
        raise UserError(
            f"{option}: its shards are at paths and at URLs; give all of them at one or the other"
        )
    return found


def _expanded(option, address):
    count = 1
    for first, last in _RANGE.findall(address):
        count *= abs(int(last) - int(first)) + 1
    if count > MOST_SHARDS:
        raise UserError(f"{option} {address} stands for {count} shards; at most {MOST_SHARDS} are read")
    try:
        names = list(braceexpand.braceexpand(address, escape=False))
    except ValueError as error:
        raise UserError(f"{option} {address}: {error}") from None
    paths = []
    for name in names:
        matches = sorted(glob(name)) if set(name) & set("*?[") and not is_url(name) else [name]
        if not matches:
            raise UserError(f"{option} {name} matches no file; give the shards of that split")
        paths += matches
    return paths


def check_repeated(paths, prefix):
    """Raise UserError for a shard that is given twice; prefix: of the names of the options."""
    first = {}
    for split, files in paths.items():
        for file in files:
            real = file if is_url(file) else os.path.realpath(file)
            if real in first:
                raise UserError(
                    f"{file} of {prefix}{split} is {first[real][1]} of {prefix}{first[real][0]}; give it once"
                )
            first[real] = split, file


def common_folder(addresses):
    """Return the name of the last folder that is above all shards, but for one called like a split; raises
    UserError where there is none.
    """
    folders = [
        re.sub(r"^\w+://[^/]*", "", address) if is_url(address) else os.path.abspath(address)
        for address in addresses
    ]
    levels = zip(*(folder.split("/")[:-1] for folder in folders), strict=False)
    above = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
    name = next((name for name in reversed(above) if name and not resembles_split(name)), None)
    if name is None:
        raise UserError(f"{addresses[0]} is in no folder that names its rock; give --rock NAME")
    return name
