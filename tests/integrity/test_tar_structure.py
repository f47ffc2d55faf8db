import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import tarfile
import zlib

import numpy as np
import pytest
from corruption import config_of, full, said, trust_shard, verify
from packed_sets import edit_manifest, edit_rows

from srgan_dist.data.sample import BLOCK, padded
from srgan_dist.run.preflight import preflight
from srgan_dist.training import train
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import sha256_of


def members_of(path):
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def repack(folder, change, format=tarfile.USTAR_FORMAT):
    """Rewrite the first train shard with change(members); index and manifest follow."""
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
        r"is the file 'stranger.txt' of 1 bytes, the index has the file",
    ),
    "a member of a sample's key": (
        extra("{}.txt", 3, b"x"),
        r"is the file '\w+.txt' of 1 bytes, the index has the file",
    ),
    "a hidden member": (
        extra("__meta__/x", 0, b"x"),
        r"at offset 0 is the file '__meta__/x' of 1 bytes, the index",
    ),
    "a member at the end": (
        extra("{}.txt", 9, b"x"),
        r"at offset \d+, after the last sample of the index, is the file",
    ),
    "a folder": (extra("folder", 3, type=tarfile.DIRTYPE), "is the folder 'folder'"),
    "a symbolic link": (
        extra("link", 3, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is the symbolic link 'link'",
    ),
    "a hard link": (
        extra("link", 0, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        "at offset 0 is the hard link 'link'",
    ),
    "a device": (extra("device", 3, type=tarfile.CHRTYPE), "is a member of type b'3' 'device'"),
    "an image as hard link": (retyped(tarfile.LNKTYPE), r"at offset 0 is the hard link '\w+.hr.npy'"),
    "an image as symbolic link": (
        retyped(tarfile.SYMTYPE),
        r"at offset 0 is the symbolic link '\w+.hr.npy'",
    ),
    "a sparse image (GNU)": (
        retyped(tarfile.GNUTYPE_SPARSE),
        r"at offset 0 is the sparse file '\w+.hr.npy'",
    ),
    "a sparse image (PAX)": (sparse_by_pax, r"at offset 0 is the PAX header '"),
    "a way out as an extra": (extra("../../evil.txt", 3, b"x"), r"is the file '../../evil.txt' of 1 bytes"),
    "a way out as a sample": (renamed, r"at offset 0 is the file '../\w+.hr.npy'"),
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
    assert f"{path}: at offset 0 is data compressed by {words}" in fault
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
