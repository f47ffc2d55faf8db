"""WebDatasets of other people at URLs: a folder with its index, or shards that a local index names."""

import io
import json

import numpy as np
import pytest
import webdataset
from conftest import full_disk, texture
from test_remote import Server, hasty  # noqa: F401 (a fixture)

from srgan_dist.cli.index import main
from srgan_dist.data.reader import Reader
from srgan_dist.data.split import open_set, open_split
from srgan_dist.integrity.audit import verify
from srgan_dist.storage.cache import GIB, Cache
from srgan_dist.storage.remote import Remote
from srgan_dist.utils.errors import UserError


def npy(image):
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(3):
        hr = texture(number)
        with webdataset.TarWriter(str(folder / f"s-{number}.tar"), encoder=False) as writer:
            writer.write({"__key__": f"k{number}", "hr.npy": npy(hr), "lr.npy": npy(hr[::4, ::4])})
    server = Server(folder)
    yield server
    server.close()


@pytest.fixture
def options(tmp_path):
    return ["--rock", "coal", "--cache", str(tmp_path / "cache")]


def test_a_served_folder_with_its_index_is_a_set(served, options, tmp_path, hasty):  # noqa: F811
    main([str(served.folder), "--train", f"{served.folder}/s-{{0..1}}.tar", *options])
    split = open_split(served.url, "train", cache=Cache(tmp_path / "cache", GIB))
    assert [split.key(i) for i in range(2)] == ["k0", "k1"]
    assert np.array_equal(Reader(split).image(1)[1], texture(1))


def test_shards_at_urls_are_indexed_and_read(served, options, tmp_path, hasty):  # noqa: F811
    """The copies that indexing has fetched are those of the training."""
    out = tmp_path / "index"
    valid = ["--valid", f"{served.url}/s-2.tar"]
    main(
        [
            str(out),
            "--train",
            f"{served.url}/s-{{0..1}}.tar",
            *valid,
            "--hr",
            "hr.npy",
            "--lr",
            "lr.npy",
            *options,
        ]
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "train.index.npy",
        "valid.index.npy",
    ]
    served.asked.clear()
    packed = open_set(out, Cache(tmp_path / "cache", GIB))
    for split, number, image in (("train", 0, 0), ("train", 1, 1), ("valid", 0, 2)):
        assert np.array_equal(Reader(packed.split(split)).image(number)[1], texture(image))
    assert verify(packed) == [] and served.asked == []


def test_a_shard_that_changes_on_the_server_is_named(served, options, tmp_path, hasty):  # noqa: F811
    out = tmp_path / "index"
    main([str(out), "--train", f"{served.url}/s-0.tar", *options])
    path = served.folder / "s-0.tar"
    path.write_bytes(path.read_bytes() + bytes(10240))
    with pytest.raises(UserError, match="s-0.tar has .* bytes, the manifest says"):
        open_split(out, "train", cache=Cache(tmp_path / "other", GIB))


def test_faults_name_the_url(served, options, tmp_path, capsys, hasty):  # noqa: F811
    path = served.folder / "s-0.tar"
    path.write_bytes(path.read_bytes()[:7000])
    for name, words in (
        ("s-0.tar", "is cut short"),
        ("s-7.tar", "does not exist"),
        ("s-1.tar", "has no x.npy"),
    ):
        fields = ["--hr", "x.npy" if name == "s-1.tar" else "hr.npy", "--lr", "lr.npy"]
        with pytest.raises(SystemExit, match="1"):
            main([str(tmp_path / "out"), "--train", f"{served.url}/{name}", *fields, *options])
        error = capsys.readouterr().err
        assert f"{served.url}/{name}" in error and words in error and str(tmp_path / "cache") not in error


def test_a_set_at_a_url_names_no_files_elsewhere(served, options, tmp_path, hasty):  # noqa: F811
    main([str(served.folder), "--train", f"{served.folder}/s-0.tar", *options])
    manifest = json.loads((served.folder / "manifest.json").read_text())
    for place in ("/etc/passwd", "https://other/s-0.tar"):
        manifest["splits"]["train"]["shards"][0]["file"] = place
        (served.folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="which is not below it"):
            open_set(served.url, Cache(tmp_path / "cache", GIB))


def test_a_shard_of_more_than_the_cache_takes_is_not_fetched(served, tmp_path, hasty):  # noqa: F811
    with pytest.raises(UserError, match=r"data.cache_gib=.* is less than a copy of [0-9,]+ bytes"):
        Remote(served.url, Cache(tmp_path / "cache", 5000)).download("s-0.tar")
    assert served.fetches("s-0.tar") == []


def test_a_full_disk_of_an_index_names_the_cache(served, options, tmp_path, capsys, hasty):  # noqa: F811
    with full_disk(5000), pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "out"), "--train", f"{served.url}/s-0.tar", *options])
    assert f"data.cache={tmp_path / 'cache'} cannot be written ([Errno 27]" in capsys.readouterr().err


def test_what_a_killed_index_has_fetched_is_evicted(served, options, tmp_path, hasty):  # noqa: F811
    cache = Cache(tmp_path / "cache", 2 * (served.folder / "s-0.tar").stat().st_size)
    remote = Remote(served.url, cache)
    for name in ("s-0.tar", "s-1.tar"):  # as a process that is killed leaves them
        remote.download(name).close()
    remote.download("s-2.tar").close()
    copies = list(cache.folder.iterdir())
    assert len(copies) == 2 and all(path.stat().st_size for path in copies)
