"""Downloading: a loopback server with scripted answers, and a small archive of DeepRock-SR's layout."""

import hashlib
import io
import json
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from srgan_dist.datasets import deeprock as module
from srgan_dist.datasets.deeprock import (
    FOLDER,
    RECORD,
    Limits,
    Portal,
    RetryPolicy,
    count_images,
    download,
    format_images,
)
from srgan_dist.packing.scan import find_sources
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.locks import file_lock

HASTY = RetryPolicy(timeout=5, slow_seconds=60, slow_bytes=10**6, tries=3, first_pause=0, longest_pause=0)
TREE, FILES, OLD, LINK = "/api/tree/", "/api/files/", "/old/download/", "/store/one time.zip"
KNOWN = "2D/DeepRockSR-2D.zip"
KNOWN_PAGE = f"{FILES}2D/DeepRockSR-2D.zip/"


# --- The archive ---


def png(seed, size):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(file, "PNG")
    return file.getvalue()


def images(rocks=("carbonate2D", "coal2D")):
    """Return {path: bytes}: two training pairs, one of validation and one of test per rock."""
    files = {}
    for rock in rocks:
        for number, split in enumerate(("train", "train", "valid", "test"), 1):
            stem = f"{rock}/{rock}_{split}"
            files[f"{stem}_HR/{number:04}.png"] = png(number, 16)
            for kind, scale in (("default", 2), ("unknown", 4)):
                files[f"{stem}_LR_{kind}_X{scale}/{number:04}x{scale}.png"] = png(number, 16 // scale)
    return files


IMAGES = images()


def zip_of(files, edit=lambda archive: None):
    """Pack {path: bytes}; edit may falsify the archive's directory before it is written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        edit(archive)
    return file.getvalue()


def below(root, files=IMAGES):
    return {f"{root}{name}": content for name, content in files.items()}


ZIP = zip_of(below("DeepRockSR-2D/"))
OTHER_ZIP = zip_of(below("DeepRockSR-2D/", images(("sandstone2D", "coal2D"))))


def unpacked(out):
    folder = out / FOLDER
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def assert_nothing_but(out, *names):
    assert {path.name for path in out.iterdir()} - {".download.lock"} == set(names)


# --- The server ---


class Site:
    """A web server on this machine; `pages` maps a path to its answers, of which the last is repeated."""

    def __init__(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = urllib.parse.unquote(self.path)
                answers = site.pages.get(path, [page("gone", 404)])
                site.asked.append(path)
                site.headers.append(dict(self.headers))
                self.number = len(site.sent)
                site.sent.append(0)
                (answers.pop(0) if len(answers) > 1 else answers[0])(self, site)

            def log_message(self, *args):
                pass

        self.pages, self.asked, self.headers, self.sent = {}, [], [], []
        self.closing = threading.Event()  # ends answers that hang
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.handle_error = True, lambda *args: None
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.portal = Portal(self.url + TREE, self.url + FILES + "{path}/", KNOWN, (self.url + OLD,))

    def write(self, handler, content):
        self.sent[handler.number] += len(content)  # first, as the client may be quicker with its next request
        handler.wfile.write(content)

    def of(self, path):
        """Return (Range, bytes sent) of every request for a path."""
        requests = zip(self.asked, self.headers, self.sent, strict=True)
        return [(headers.get("Range"), sent) for asked, headers, sent in requests if asked == path]

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def page(content, status=200, kind="text/plain", **headers):
    def answer(handler, site):
        handler.send_response(status)
        for name, value in ({"Content_Type": kind, "Content_Length": len(content)} | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        site.write(handler, content.encode())

    return answer


def link(url):
    return page(json.dumps({"data": url}), kind="application/json")


def file(
    content=ZIP, etag='"one"', ranges=True, cut=None, length=None, hang=None, if_range=True, modified=None
):
    """Serve a file; cut: bytes after which the connection ends, hang: after which nothing more comes."""

    def answer(handler, site):
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = (
            int(asked[6:-1])
            if ranges and asked and (not if_range or condition in (None, etag, modified))
            else 0
        )
        if start >= len(content):
            return page("", 416)(handler, site)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str((length or len(content)) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in (("ETag", etag), ("Last-Modified", modified)):
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        stop = cut or hang
        site.write(handler, content[start : stop and start + stop])
        if hang:
            handler.wfile.flush()
            site.closing.wait(30)

    return answer


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    yield site
    site.close()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def fetch(site, out, retry_policy=HASTY, **options):
    said = []
    result = download(out, portal=site.portal, retry_policy=retry_policy, say=said.append, **options)
    return result, "\n".join(said)


def refused(site, out, retry_policy=HASTY, **options):
    with pytest.raises(UserError) as caught:
        fetch(site, out, retry_policy, **options)
    return str(caught.value)


def part_of(out):
    [part] = out.glob("*.part")
    return part


# --- Where it is ---


def test_the_new_portal_gives_the_archive_by_its_list_and_a_link_that_works_once(site, out):
    tree = {
        "tree": [
            {
                "name": "root",
                "children": [
                    {
                        "metadata": {
                            "file_objs": [
                                {"path": "/3D/DeepRockSR-3D.zip"},
                                {"path": "/A/More-2D.zip"},
                                {"path": "/Images 2D/readme.txt"},
                                {"path": "/Images 2D/DeepRockSR-2D.zip"},
                            ]
                        }
                    }
                ],
            }
        ]
    }
    site.pages = {
        TREE: [page(json.dumps(tree), kind="application/json")],
        f"{FILES}Images 2D/DeepRockSR-2D.zip/": [link(site.url + LINK)],
        LINK: [file(modified="Wed, 01 Jan 2020 00:00:00 GMT")],
    }
    result, said = fetch(site, out)
    assert unpacked(out) == IMAGES
    assert site.asked == [TREE, f"{FILES}Images 2D/DeepRockSR-2D.zip/", LINK] and site.sent[-1] == len(ZIP)
    sha256 = hashlib.sha256(ZIP).hexdigest()
    assert json.loads((out / RECORD).read_text()) == {
        "url": f"{site.url}{FILES}Images%202D/DeepRockSR-2D.zip/",
        "bytes": len(ZIP),
        "sha256": sha256,
        "last_modified": "Wed, 01 Jan 2020 00:00:00 GMT",
        "files": 24,
        "unpacked_bytes": sum(map(len, IMAGES.values())),
    }
    assert f"sha256 {sha256}" in said and not result.already_there and result.left_out == 0
    assert_nothing_but(out, FOLDER, RECORD)


@pytest.mark.parametrize(
    "tree",
    [
        page("gone", 404),
        page("<html></html>"),
        page('{"tree": [{"path": "3D/scans.zip"}]}'),
        page("[" * 10**5),
    ],
)
def test_without_a_useful_list_the_known_path_is_asked_for(site, out, tree):
    site.pages = {TREE: [tree], KNOWN_PAGE: [link(site.url + LINK)], LINK: [file()]}
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.asked == [TREE, KNOWN_PAGE, LINK]


def test_a_list_without_end_is_not_read_to_its_end(site, out, monkeypatch):
    monkeypatch.setattr(module, "_JSON_BYTES", 1000)
    site.pages = {TREE: [page("[" + " " * 2000 + "]")], OLD: [file()]}
    assert (
        f"{TREE}: more than 1,000 bytes where JSON was expected" in fetch(site, out)[1]
        and unpacked(out) == IMAGES
    )


def test_the_old_portal_gives_the_archive_itself(site, out):
    site.pages = {OLD: [page("", 302, Location="/moved.zip")], "/moved.zip": [file()]}
    result, said = fetch(site, out)
    assert unpacked(out) == IMAGES and result.record.url == site.url + OLD
    assert site.asked == [TREE, KNOWN_PAGE, OLD, "/moved.zip"] and f"{site.url}{TREE}: HTTP 404" in said


def test_when_all_addresses_fail_the_error_tells_every_answer_and_the_way_out(site, out):
    site.pages = {
        KNOWN_PAGE: [page(json.dumps({"message": "no", "details": "x" * 9000}))],
        OLD: [page("<!-- new --><!DOCTYPE html><title>Portal &amp;\n moved</title>", 200, "text/html")],
    }
    error = refused(site, out)
    assert f"{site.url}{TREE}: HTTP 404 Not Found, a text that begins with 'gone'" in error
    assert f'{site.url}{KNOWN_PAGE}: JSON without a link in `data`: {{"message": "no"' in error
    assert f"{site.url}{OLD}: HTTP 200, an HTML page ('Portal & moved') in place of a zip archive" in error
    assert max(map(len, error.splitlines())) < 400
    assert (
        "https://doi.org/10.17612/s3m9-e024" in error
        and f"shards/download.py {out} --from DeepRockSR-2D.zip" in error
    )
    assert_nothing_but(out)


def test_404_is_not_asked_again(site, out):
    error = refused(site, out)
    assert error.count("HTTP 404") == 3 and site.asked == [TREE, KNOWN_PAGE, OLD]


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/a.zip", "pipe:cat a.zip", "data:text/plain,PK", "http:///x"],
)
def test_only_web_addresses_are_followed(site, out, target):
    site.pages = {KNOWN_PAGE: [link(target)], OLD: [page("", 302, Location=target)]}
    error = refused(site, out)
    linked, redirected = error.split("Tried:\n")[1].splitlines()[1:3]
    assert "not an http or https address" in linked and target.split(":")[0] in linked
    assert OLD in redirected and len(site.asked) <= 4 and not list(out.glob("*.part"))


def test_a_browser_is_named_and_cookies_are_not_kept(site, out):
    site.pages = {
        KNOWN_PAGE: [page("", 302, Location="/hop", Set_Cookie="a=1")],
        "/hop": [link(site.url + LINK)],
        LINK: [file()],
    }
    fetch(site, out)
    assert (
        all(headers["User-Agent"].startswith("Mozilla/5.0") for headers in site.headers)
        and len(site.headers) == 4
    )
    assert not any({"Cookie", "Authorization"} & set(headers) for headers in site.headers)


def test_a_server_with_a_certificate_of_its_own_making_is_refused(tmp_path, site, out):
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1".split()
    subprocess.run(
        [*request, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    site.portal = Portal(*(f"https{text[4:]}" for text in (site.portal.tree, site.portal.file)), KNOWN, ())
    assert refused(site, out).count("its certificate is not valid (self") == 2 and not site.asked


# --- Interrupted transfers ---


def test_a_cut_connection_is_resumed_where_it_ended(site, out):
    site.pages = {OLD: [file(cut=1000), file(cut=500), file()]}
    fetch(site, out)
    assert unpacked(out) == IMAGES
    assert site.of(OLD) == [(None, 1000), ("bytes=1000-", 500), ("bytes=1500-", len(ZIP) - 1500)]
    assert site.headers[-1]["If-Range"] == '"one"'


def test_a_fresh_link_is_asked_for_after_every_cut(site, out):
    site.pages = {
        KNOWN_PAGE: [link(f"{site.url}/1"), link(f"{site.url}/2")],
        "/1": [file(cut=1000)],
        "/2": [file()],
    }
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.asked == [TREE, KNOWN_PAGE, "/1", KNOWN_PAGE, "/2"]
    assert site.of("/2") == [("bytes=1000-", len(ZIP) - 1000)]


def test_a_later_run_resumes_what_an_earlier_one_has_kept(site, out):
    site.pages = {OLD: [file(cut=1000), page("busy", 503), page("busy", 503), file()]}
    error = refused(site, out)
    assert "HTTP 503" in error and "(3 tries)" in error and "the same command goes on from there" in error
    assert (
        part_of(out).read_bytes() == ZIP[:1000]
        and not (out / FOLDER).exists()
        and not (out / RECORD).exists()
    )
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.of(OLD)[-1] == ("bytes=1000-", len(ZIP) - 1000)
    assert_nothing_but(out, FOLDER, RECORD)


def test_tries_that_bring_enough_are_not_counted(site, out):
    site.pages = {OLD: [file(cut=len(ZIP) // 8)]}
    fetch(site, out, RetryPolicy(tries=2, slow_bytes=len(ZIP) // 16, first_pause=0))
    assert unpacked(out) == IMAGES and len(site.of(OLD)) >= 8


def test_tries_that_bring_little_are_counted(site, out):
    site.pages = {OLD: [file(cut=10)]}
    assert "30 bytes came of the" in refused(site, out) and len(site.of(OLD)) == 3


@pytest.mark.parametrize("if_range", [True, False], ids=["server minds If-Range", "server ignores If-Range"])
@pytest.mark.parametrize(
    "before, after",
    [
        ({"etag": '"one"'}, {"etag": '"two"'}),
        ({"etag": 'W/"one"'}, {"etag": 'W/"two"'}),
        ({"etag": None, "modified": "then"}, {"etag": None, "modified": "now"}),
    ],
)
def test_a_file_that_changes_on_the_way_is_not_spliced(site, out, if_range, before, after):
    assert len(ZIP) == len(OTHER_ZIP)  # so that the size does not tell
    site.pages = {OLD: [file(ZIP, cut=1000, **before), file(OTHER_ZIP, if_range=if_range, **after)]}
    fetch(site, out)
    assert unpacked(out) == images(("sandstone2D", "coal2D"))


def test_without_etag_and_date_a_file_of_another_size_is_not_spliced(site, out):
    longer = zip_of(below("DeepRockSR-2D/") | {"DeepRockSR-2D/readme.txt": b"more"})
    site.pages = {OLD: [file(ZIP, etag=None, cut=1000), file(longer, etag=None)]}
    fetch(site, out)
    assert unpacked(out) == IMAGES | {"readme.txt": b"more"}
    assert [asked for asked, _ in site.of(OLD)] == [None, "bytes=1000-", None]


def test_a_server_that_gives_another_range_than_asked_for_is_asked_for_everything(site, out):
    wrong = page("later part", 206, Content_Range=f"bytes 2000-2009/{len(ZIP)}")
    site.pages = {OLD: [file(cut=1000), wrong, file()]}
    fetch(site, out)
    assert unpacked(out) == IMAGES and [asked for asked, _ in site.of(OLD)] == [None, "bytes=1000-", None]


def test_an_etag_that_comes_late_is_no_change(site, out):
    site.pages = {OLD: [file(etag=None, cut=1000), file()]}
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.of(OLD)[1:] == [("bytes=1000-", len(ZIP) - 1000)]


def test_a_weak_etag_is_no_condition_but_the_date_is(site, out):
    site.pages = {
        OLD: [file(etag='W/"one"', modified="then", cut=1000), file(etag='W/"one"', modified="then")]
    }
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.headers[-1]["If-Range"] == "then"


def test_a_file_that_has_become_shorter_is_fetched_anew(site, out):
    site.pages = {OLD: [file(ZIP + bytes(9000), cut=len(ZIP) + 5000), file(ZIP, if_range=False)]}
    fetch(site, out)
    assert unpacked(out) == IMAGES
    assert site.of(OLD) == [(None, len(ZIP) + 5000), (f"bytes={len(ZIP) + 5000}-", 0), (None, len(ZIP))]


def test_a_server_that_ignores_ranges_starts_over(site, out):
    site.pages = {OLD: [file(cut=1000), file(ranges=False)]}
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.of(OLD) == [(None, 1000), ("bytes=1000-", len(ZIP))]


def test_a_damaged_record_of_a_part_starts_over(site, out):
    site.pages = {OLD: [file(cut=1000), page("no", 404), file()]}
    refused(site, out)
    part_of(out).with_name(f"{part_of(out).name}.json").write_text("{")
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.of(OLD)[-1] == (None, len(ZIP))


def test_a_page_in_place_of_the_rest_does_not_cost_what_has_come(site, out):
    site.pages = {OLD: [file(cut=1000), page("<html><title>Maintenance</title></html>"), file()]}
    assert "an HTML page ('Maintenance')" in refused(site, out)
    assert part_of(out).read_bytes() == ZIP[:1000]


@pytest.mark.parametrize(
    "answer", [page(""), page("", Content_Length=9000), page("x", 206), page("x", 206, Content_Range="all")]
)
def test_an_answer_without_the_file_is_an_error_that_may_pass(site, out, answer):
    site.pages = {OLD: [answer, file()]}
    _, said = fetch(site, out)
    assert unpacked(out) == IMAGES and "trying again" in said


def test_an_empty_answer_does_not_cost_what_has_come(site, out):
    site.pages = {OLD: [file(cut=1000), page("")]}
    assert "HTTP 200 without content" in refused(site, out)
    assert part_of(out).read_bytes() == ZIP[:1000]


def test_a_busy_server_is_asked_again(site, out):
    site.pages = {OLD: [page("busy", 503), page("busy", 429), file()]}
    _, said = fetch(site, out)
    assert unpacked(out) == IMAGES and len(site.of(OLD)) == 3 and said.count("trying again in 0 s") == 2


def test_a_busy_list_and_a_busy_link_are_asked_again(site, out):
    tree = page(json.dumps([{"path": "a/2D.zip"}]))
    site.pages = {
        TREE: [page("", 502), tree],
        f"{FILES}a/2D.zip/": [page("", 500), link(site.url + LINK)],
        LINK: [file()],
    }
    fetch(site, out)
    assert unpacked(out) == IMAGES


def test_pauses_double_up_to_the_longest():
    retry_policy = RetryPolicy(first_pause=2, longest_pause=60)
    assert [retry_policy.pause(failed) for failed in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]


def test_the_server_can_ask_for_a_longer_pause_within_limits(site, out, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site.pages = {
        OLD: [
            page("", 503, Retry_After=30),
            page("", 503, Retry_After=9000),
            page("", 503, Retry_After="9" * 5000),
            file(),
        ]
    }
    fetch(site, out, RetryPolicy(tries=4, first_pause=2, longest_pause=60))
    assert pauses == [30, 60, 8]


def test_a_server_that_falls_silent_is_given_up(site, out):
    site.pages = {OLD: [file(hang=1000), file()]}
    _, said = fetch(site, out, RetryPolicy(timeout=1, tries=2, first_pause=0))
    assert "no byte for 1 s, after 1,000 bytes" in said
    assert unpacked(out) == IMAGES and site.of(OLD)[1] == ("bytes=1000-", len(ZIP) - 1000)


def test_a_server_that_never_answers_is_given_up(site, out):
    site.pages = {OLD: [lambda handler, site: site.closing.wait(30)]}
    assert f"{OLD}: no byte for 0.1 s (2 tries)" in refused(
        site, out, RetryPolicy(timeout=0.1, tries=2, first_pause=0)
    )


def test_a_server_that_trickles_is_given_up(site, out):
    def trickle(handler, site):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(ZIP)))
        handler.end_headers()
        for byte in ZIP:
            site.write(handler, bytes([byte]))
            if site.closing.wait(0.02):
                return

    site.pages = {OLD: [trickle]}
    error = refused(site, out, RetryPolicy(timeout=5, slow_seconds=0.2, slow_bytes=10**4, tries=1))
    assert f"{OLD}: only" in error and " s, after" in error


def test_a_length_that_promises_too_much_is_an_error(site, out):
    site.pages = {OLD: [file(length=len(ZIP) + 7, ranges=False)]}
    assert f"{len(ZIP):,} bytes came of the {len(ZIP) + 7:,} announced (Content-Length) (3 tries)" in refused(
        site, out
    )
    assert not (out / FOLDER).exists()


def test_a_length_that_promises_too_little_is_an_error(site, out):
    site.pages = {OLD: [file(length=len(ZIP) - 7)]}
    assert f"{len(ZIP) - 7:,} bytes came, as announced, but they are no whole zip archive" in refused(
        site, out
    )
    assert_nothing_but(out)


def test_a_list_that_is_cut_is_asked_for_again(site, out):
    tree = json.dumps([{"path": "a/2D.zip"}])
    site.pages = {
        TREE: [page(tree, Content_Length=len(tree) + 5), page(tree)],
        f"{FILES}a/2D.zip/": [link(site.url + LINK)],
        LINK: [file()],
    }
    _, said = fetch(site, out)
    assert "bytes came of the" in said and unpacked(out) == IMAGES


def test_a_file_without_a_length_is_judged_by_its_end(site, out):
    def unannounced(handler, site):
        handler.send_response(200)
        handler.end_headers()
        site.write(handler, ZIP)

    site.pages = {OLD: [unannounced]}
    result, _ = fetch(site, out)
    assert unpacked(out) == IMAGES and result.record.bytes == len(ZIP)


def test_ctrl_c_keeps_what_has_come(site, out, monkeypatch):
    site.pages = {OLD: [file(hang=1000), file()]}
    copy = module._copy

    def interrupted(chunks, *arguments):
        def one_then_ctrl_c():
            yield next(chunks)
            raise KeyboardInterrupt

        copy(one_then_ctrl_c(), *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_copy", interrupted)
        fetch(site, out)
    begun = part_of(out).read_bytes()
    assert begun and ZIP.startswith(begun)
    fetch(site, out)
    assert unpacked(out) == IMAGES and site.of(OLD)[1] == (f"bytes={len(begun)}-", len(ZIP) - len(begun))


def test_a_terminal_shows_how_much_has_come_also_of_an_earlier_try(site, out, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    content = zip_of(
        below("DeepRockSR-2D/") | {"DeepRockSR-2D/large": np.random.default_rng(0).bytes(5 << 20)}
    )
    site.pages = {OLD: [file(content, cut=2 << 20), file(content)]}
    fetch(site, out)
    first, second = (bar.split("\r") for bar in terminal.getvalue().split("\n")[:2])
    assert (
        "0/5" in first[1]
        and "2/5" in first[-1]
        and "2/5" in second[1]
        and "5/5" in second[-1]
        and "100%" in second[-1]
    )


def test_a_full_disk_is_noticed_before_the_download(site, out, monkeypatch):
    site.pages = {OLD: [file()]}
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 2000, 2000)
    )
    assert f"{out} has 2,000 bytes free, the archive needs {len(ZIP):,} bytes; make room" in refused(
        site, out
    )


# --- The same data set ---


def test_a_second_run_asks_nobody_and_writes_nothing(site, out):
    site.pages = {OLD: [file()]}
    fetch(site, out)
    before, requests = {path: path.stat() for path in out.rglob("*")}, len(site.asked)
    result, said = fetch(site, out)
    assert result.already_there and result.record.sha256 == hashlib.sha256(ZIP).hexdigest() and said == ""
    lock = out / ".download.lock"
    after = {path: path.stat() for path in out.rglob("*")}
    assert len(site.asked) == requests and after.keys() == before.keys()
    assert all(after[path].st_mtime_ns == before[path].st_mtime_ns for path in before if path != lock)


def test_another_archive_than_the_first_is_refused_until_the_record_is_deleted(site, out):
    site.pages = {OLD: [file(ZIP), file(OTHER_ZIP)]}
    fetch(site, out)
    shutil.rmtree(out / FOLDER)
    error = refused(site, out)
    assert all(hashlib.sha256(content).hexdigest() in error for content in (ZIP, OTHER_ZIP))
    assert f"delete {out / RECORD}" in error and not (out / FOLDER).exists()
    (out / RECORD).unlink()
    fetch(site, out)
    assert unpacked(out) == images(("sandstone2D", "coal2D"))


def test_the_same_archive_again_is_unpacked_again(site, out):
    site.pages = {OLD: [file()]}
    fetch(site, out)
    shutil.rmtree(out / FOLDER)
    fetch(site, out)
    assert unpacked(out) == IMAGES


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name("more.png").touch(),
    ],
)
def test_a_set_that_is_no_longer_whole_is_named(site, out, damage):
    site.pages = {OLD: [file()]}
    fetch(site, out)
    damage(next((out / FOLDER).rglob("*.png")))
    assert "but 24 files of" in refused(site, out)


def test_what_a_file_manager_leaves_in_a_set_does_not_count(site, out):
    site.pages = {OLD: [file()]}
    fetch(site, out)
    (out / FOLDER / ".DS_Store").write_bytes(b"view")
    assert fetch(site, out)[0].already_there


def test_a_set_of_unknown_origin_is_left_alone(site, out):
    (out / FOLDER).mkdir(parents=True)
    assert f"{out / FOLDER} is there, but no {RECORD}" in refused(site, out) and not site.asked


@pytest.mark.parametrize("text", ["{", "[]", '{"url": "x"}'])
def test_a_damaged_record_is_named(site, out, text):
    out.mkdir()
    (out / RECORD).write_text(text)
    assert f"{out / RECORD} is damaged; delete it" in refused(site, out)


def test_one_process_at_a_time(site, out):
    out.mkdir()
    with file_lock(out / ".download.lock", "held"):
        assert f"another process downloads to OUT={out}; wait for its end" in refused(site, out)


def test_out_may_not_be_a_file(site, out):
    out.write_text("")
    assert f"OUT={out} is a file" in refused(site, out)


# --- By hand ---


def given(tmp_path, content, name="by hand.zip"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_an_archive_from_a_file_is_recorded_like_a_download(tmp_path, site, out):
    archive = given(tmp_path, ZIP)
    result, _ = fetch(site, out, from_file=archive)
    assert unpacked(out) == IMAGES and archive.read_bytes() == ZIP and not site.asked
    assert (result.record.url, result.record.sha256) == (archive.as_uri(), hashlib.sha256(ZIP).hexdigest())
    assert fetch(site, out, from_file=archive)[0].already_there and fetch(site, out)[0].already_there
    assert "the data set is not the same" in refused(
        site, out, from_file=given(tmp_path, OTHER_ZIP, "other.zip")
    )
    assert unpacked(out) == IMAGES


@pytest.mark.parametrize(
    "content, what",
    [
        (b"<html><head><title>Log in</title>", "an HTML page ('Log in')"),
        (b"", "nothing"),
        (ZIP[:-30], "the beginning of a zip archive"),
        (b"\x1f\x8b\x08\x00\x00", "bytes that begin with"),
        (b"\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_a_file_that_is_no_archive_is_named_for_what_it_is(tmp_path, site, out, content, what):
    error = refused(site, out, from_file=given(tmp_path, content))
    assert "by hand.zip is not a whole zip archive" in error and what in error and error.isprintable()


def test_a_file_that_is_not_there_is_named(tmp_path, site, out):
    for path in (tmp_path / "none.zip", tmp_path):
        assert f"--from {path} is not a file" in refused(site, out, from_file=path)


# --- Unpacking ---


def renamed(name):
    """Give the last member another name in the archive's directory."""

    def edit(archive):
        archive.filelist[-1].filename = name

    return edit


def of_mode(mode):
    def edit(archive):
        archive.filelist[-1].external_attr = mode << 16

    return edit


def changed(**values):
    def edit(archive):
        for name, value in values.items():
            setattr(archive.filelist[-1], name, value)

    return edit


UNSAFE = {
    "absolute path": (renamed("/etc/cron.d/job"), "'/etc/cron.d/job' is an absolute path"),
    "parent folder": (renamed("a/../../b"), "'a/../../b' has an empty folder name, . or .."),
    "only the parent": (renamed(".."), "'..' has an empty folder name, . or .."),
    "parent as folder": (renamed("../"), "'../' has an empty folder name, . or .."),
    "drive": (renamed("C:/windows/a"), "'C:/windows/a' has a backslash or a drive letter"),
    "backslash": (renamed("..\\a"), "has a backslash or a drive letter"),
    "no name": (renamed(""), "'' has an empty folder name"),
    "control characters": (renamed("a\x1b[2Jb"), "has control characters"),
    "zero byte": (renamed("a\x00b"), "has control characters"),
    "long name": (renamed("a" * 401), "has control characters, more than 400 characters"),
    "deep name": (renamed("a/" * 20 + "b"), "more than 20 folders"),
    "link": (of_mode(stat.S_IFLNK | 0o777), "'z' is a link or a special file"),
    "pipe": (of_mode(stat.S_IFIFO | 0o600), "'z' is a link or a special file"),
    "device": (of_mode(stat.S_IFCHR | 0o600), "'z' is a link or a special file"),
    "folder without slash": (of_mode(stat.S_IFDIR | 0o700), "'z' is a link or a special file"),
    "encrypted": (changed(flag_bits=1), "'z' is encrypted"),
    "unknown compression": (changed(compress_type=9), "is compressed by method 9"),
    "duplicate": (renamed("DeepRockSR-2D/coal2D/coal2D_train_HR/0001.png"), "would take the place of"),
    "other case": (
        renamed("DeepRockSR-2D/coal2D/coal2D_train_HR/0001.PNG"),
        "0001.PNG' would take the place of",
    ),
    "folder in other case": (
        renamed("DeepRockSR-2D/Coal2D/a"),
        "'DeepRockSR-2D/Coal2D' would take the place of",
    ),
    "file over folder": (renamed("DeepRockSR-2D/coal2D"), "would take the place of"),
    "folder below file": (
        renamed("DeepRockSR-2D/coal2D/coal2D_train_HR/0001.png/a"),
        "would take the place of",
    ),
    "shared bytes": (changed(header_offset=0), "shares bytes with another member"),
    "bytes of the directory": (changed(compress_size=10**6), "'z' shares bytes with another member"),
    "huge": (
        changed(file_size=10**12),
        "it would unpack to 1,000,000.0 MB; at most 100,000.0 MB are expected",
    ),
    "bomb": (changed(file_size=30 * len(ZIP)), "times its size; at most 20 times are expected"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_archive_is_refused_before_anything_is_written(tmp_path, site, out, kind):
    edit, message = UNSAFE[kind]
    archive = given(tmp_path, zip_of(below("DeepRockSR-2D/") | {"z": b"last"}, edit))
    error = refused(site, out, from_file=archive)
    assert "is not safe to unpack, nothing was written" in error and message in error
    assert all(line.isprintable() for line in error.splitlines())
    assert_nothing_but(out)


def test_the_same_archive_without_the_fault_is_unpacked(tmp_path, site, out):
    folders = {"DeepRockSR-2D/": b"", "DeepRockSR-2D/coal2D/": b""}
    archive = given(
        tmp_path, zip_of(folders | below("DeepRockSR-2D/") | {"z": b"last"}, of_mode(stat.S_IFREG | 0o777))
    )
    result, _ = fetch(site, out, from_file=archive)
    assert unpacked(out) == IMAGES and result.left_out == 1


def test_too_many_files_are_refused(tmp_path, site, out):
    archive = given(tmp_path, ZIP)
    assert "it has 24 files; at most 23 are expected" in refused(
        site, out, from_file=archive, limits=Limits(files=23)
    )


def test_a_full_disk_is_noticed_before_unpacking(tmp_path, site, out, monkeypatch):
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5, 5)
    )
    assert "5 bytes free, the unpacked set needs 98,304 bytes" in refused(
        site, out, from_file=given(tmp_path, ZIP)
    )
    assert_nothing_but(out)


def test_a_damaged_image_is_named_and_leaves_nothing(tmp_path, site, out):
    content, name = bytearray(ZIP), "DeepRockSR-2D/coal2D/coal2D_valid_HR/0003.png"
    content[content.index(name.encode()) + len(name) + 20] ^= 1
    site.pages = {OLD: [file(bytes(content))]}
    assert f"'{name}' is damaged (Bad CRC-32" in refused(site, out)
    assert_nothing_but(out, part_of(out).name, f"{part_of(out).name}.json")
    part_of(out).unlink()
    site.pages = {OLD: [file()]}
    fetch(site, out)  # the damaged one has left no record
    assert unpacked(out) == IMAGES


def test_a_size_that_the_archive_states_wrongly_is_an_error(tmp_path, site, out):
    archive = given(
        tmp_path, zip_of(below("DeepRockSR-2D/") | {"DeepRockSR-2D/z": b"last"}, changed(file_size=9))
    )
    assert "'DeepRockSR-2D/z' " in refused(site, out, from_file=archive)
    assert_nothing_but(out)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("disk error")])
def test_an_interruption_while_unpacking_leaves_nothing_and_costs_no_second_download(
    site, out, monkeypatch, interruption
):
    site.pages = {OLD: [file()]}
    copy, copied = shutil.copyfileobj, []

    def failing(source, target, *length):
        copied.append(target.name)
        if len(copied) == 10:
            raise interruption
        copy(source, target, *length)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        patch.setattr(module.shutil, "copyfileobj", failing)
        fetch(site, out)
    assert_nothing_but(out, part_of(out).name, f"{part_of(out).name}.json")
    requests = len(site.asked)
    fetch(site, out)
    assert unpacked(out) == IMAGES and len(site.asked) == requests
    assert_nothing_but(out, FOLDER, RECORD)


def test_what_a_killed_run_left_in_the_working_folder_does_not_get_into_the_set(tmp_path, site, out):
    stage = out / f".{FOLDER}.unpacking"
    (stage / "coal2D").mkdir(parents=True)
    (stage / "coal2D" / "half.png").write_bytes(b"half")
    fetch(site, out, from_file=given(tmp_path, ZIP))
    assert unpacked(out) == IMAGES and not stage.exists()


@pytest.mark.parametrize("root", ["", "DeepRockSR-2D/", "2D Dataset/DeepRock-SR-2D/DeepRockSR-2D/"])
def test_the_sets_are_found_wherever_they_lie(tmp_path, site, out, root):
    fetch(site, out, from_file=given(tmp_path, zip_of(below(root))))
    assert unpacked(out) == IMAGES


def test_a_single_set_keeps_its_folder(tmp_path, site, out):
    coal = images(("coal2D",))
    fetch(site, out, from_file=given(tmp_path, zip_of(below("any/", coal))))
    assert unpacked(out) == coal


def test_a_single_set_without_a_folder_of_its_own_is_found(tmp_path, site, out):
    coal = {name.removeprefix("coal2D/"): content for name, content in images(("coal2D",)).items()}
    fetch(site, out, from_file=given(tmp_path, zip_of(below("any/", coal))))
    assert unpacked(out) == coal


def test_other_sets_and_files_of_systems_are_left_out(tmp_path, site, out):
    others = {"portal/DeepRockSR-3D/coal3D/coal3D_train_HR/0801.mat": b"volume", "portal/terms.txt": b"terms"}
    system = {
        "__MACOSX/x/coal2D/coal2D_train_HR/._0001.png": b"",
        "portal/DeepRockSR-2D/coal2D/.DS_Store": b"",
    }
    kept = {"portal/DeepRockSR-2D/LICENSE.txt": b"licence"}
    archive = given(tmp_path, zip_of(others | system | kept | below("portal/DeepRockSR-2D/")))
    result, _ = fetch(site, out, from_file=archive)
    assert unpacked(out) == IMAGES | {"LICENSE.txt": b"licence"} and result.left_out == 2


def test_an_archive_without_a_set_is_told_by_its_content(tmp_path, site, out):
    archive = given(tmp_path, zip_of({"a/DeepRockSR-2D.zip": ZIP, "a/coal3D_train_HR/0801.mat": b""}))
    error = refused(site, out, from_file=archive)
    assert (
        "it has a/DeepRockSR-2D.zip, a/coal3D_train_HR/0801.mat" in error
        and "give --from the inner zip" in error
    )


# --- What is there ---


def test_images_are_counted_per_set_split_and_kind(tmp_path, site, out):
    fetch(site, out, from_file=given(tmp_path, ZIP))
    counts = count_images(out / FOLDER)
    assert counts["coal2D", "train"] == {"HR": 2, "default X2": 2, "unknown X4": 2}
    assert counts["carbonate2D", "test"] == {"HR": 1, "default X2": 1, "unknown X4": 1} and len(counts) == 6
    assert [line.split() for line in format_images(counts).splitlines()[:3]] == [
        ["set", "split", "HR", "default", "X2", "unknown", "X4"],
        ["carbonate2D", "train", "2", "2", "2"],
        ["carbonate2D", "valid", "1", "1", "1"],
    ]


def test_the_set_can_be_packed(tmp_path, site, out):
    fetch(site, out, from_file=given(tmp_path, ZIP))
    found = find_sources(out / FOLDER, "unknown", 4)
    assert len(found.sources) == 8 and not found.faults and not found.notes


def command(*arguments):
    script = REPOSITORY / "shards" / "download.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_the_command_tells_what_is_there_how_to_pack_it_and_the_licence(tmp_path):
    out, archive = tmp_path / "my rocks", given(tmp_path, ZIP)
    done = command(out, "--from", archive)
    assert done.returncode == 0 and done.stderr == ""
    assert (
        "coal2D          valid            1" in done.stdout and hashlib.sha256(ZIP).hexdigest() in done.stdout
    )
    assert (
        f"python shards/build.py '{out}/DeepRockSR-2D' data/deeprock_x4 --kind unknown --scale 4"
        in done.stdout
    )
    assert "ODC-BY 1.0" in done.stdout and "https://doi.org/10.17612/s3m9-e024" in done.stdout
    again = command(out, "--from", archive)
    assert again.returncode == 0 and "holds exactly this set already" in again.stdout


def test_the_command_reports_an_error_in_one_message_and_ends_with_1(tmp_path):
    failed = command(tmp_path, "--from", tmp_path / "none.zip")
    assert failed.returncode == 1 and failed.stderr.startswith("error: --from ") and failed.stdout == ""
