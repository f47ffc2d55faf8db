"""Download from a loopback server with scripted answers."""

import contextlib
import io
import json
import shutil
import ssl
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from srgan_dist.datasets import fetch as fetching
from srgan_dist.datasets.fetch import Failed, Source, fetch, read_part
from srgan_dist.storage.remote import RetryPolicy

HASTY = RetryPolicy(piece_bytes=10**6, piece_seconds=0.5, tries=3, first_pause=0, longest_pause=0)


def zip_of(files, edit=lambda archive: None):
    """Pack {name: bytes}; edit may falsify the archive's directory before it is written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        edit(archive)
    return file.getvalue()


ZIP, OTHER = (zip_of({"a": bytes([number]) * 5000}) for number in (1, 2))


class Site:
    """A web server on this machine; `answers` maps a path to its answers, of which the last is repeated."""

    def __init__(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answers = site.answers.get(self.path, [page("gone", 404)])
                site.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
                (answers.pop(0) if len(answers) > 1 else answers[0])(self, site)

            def log_message(self, *args):
                pass

        self.answers, self.requests = {}, []
        self.closing = threading.Event()  # ends answers that hang
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.handle_error = True, lambda *args: None
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def source(self, path="/zip", **options):
        return Source(self.url + path, **options)

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def page(content, status=200, **headers):
    def answer(handler, site):
        handler.send_response(status)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(content.encode())

    return answer


def file(content=ZIP, etag='"one"', modified=None, cut=None, length=None, ranges="strict", hang=False):
    """Serve a file, or its first `cut` bytes; ranges: "strict", "no If-Range" or None."""

    def answer(handler, site):
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        unchanged = condition in (None, etag, modified) or ranges == "no If-Range"
        start = int(asked[6:-1]) if asked and ranges and unchanged else 0
        if start >= len(content):
            return page("", 416)(handler, site)
        handler.send_response(206 if start else 200)
        given = {"ETag": etag, "Last-Modified": modified, "Content-Length": (length or len(content)) - start}
        if start:
            given["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in given.items():
            if value is not None:
                handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(content[start : start + cut if cut else None])
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
def path(tmp_path):
    return tmp_path / "archive.part"


def fetched(site, path, *answers, policy=HASTY, source=None):
    """Download from a site with these answers; returns the ranges of the requests, and the printed lines."""
    site.answers["/zip"] = list(answers)
    lines = []
    fetch(source or site.source(), path, policy, lines.append)
    return [asked for requested, asked, _ in site.requests if requested == "/zip"], lines


def failure(site, path, *answers, **options):
    with pytest.raises(Failed) as caught:
        fetched(site, path, *answers, **options)
    return str(caught.value)


# Resume


def test_a_cut_connection_is_resumed_where_it_ended(site, path):
    ranges, _ = fetched(site, path, file(cut=1000), file(cut=500), file())
    assert path.read_bytes() == ZIP and ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert [condition for _, _, condition in site.requests] == [None, '"one"', '"one"']
    assert fetched(site, path, page("", 500))[0] == ranges  # complete: nothing is requested
    assert read_part(path).bytes == len(ZIP)


def test_a_later_run_resumes_after_the_last_try_failed(site, path):
    error = failure(site, path, file(cut=1000), page("busy", 503))
    assert error == "HTTP 503 Service Unavailable, data that begin with 'busy'"
    assert path.read_bytes() == ZIP[:1000] and len(site.requests) == 3
    ranges, _ = fetched(site, path, file())
    assert path.read_bytes() == ZIP and ranges[-1] == "bytes=1000-"


def test_a_link_is_good_for_one_request(site, path):
    site.answers["/link"] = [page(json.dumps({"data": f"{site.url}/{name}"})) for name in ("one file", "two")]
    site.answers |= {"/one%20file": [file(cut=1000)], "/two": [file()]}
    fetched(site, path, source=site.source("/link", is_link=True))
    asked = [(requested, ranges) for requested, ranges, _ in site.requests]
    assert asked == [("/link", None), ("/one%20file", None), ("/link", None), ("/two", "bytes=1000-")]
    assert path.read_bytes() == ZIP and read_part(path).url == f"{site.url}/link"


def test_tries_that_bring_enough_are_not_counted(site, path):
    policy = RetryPolicy(piece_bytes=600, tries=2, first_pause=0)
    assert len(fetched(site, path, file(cut=len(ZIP) // 8), policy=policy)[0]) >= 8
    path.unlink()
    assert "bytes were received (Content-Length)" in failure(site, path, file(cut=500), policy=policy)


def test_a_silent_server_is_given_up_and_its_bytes_are_kept(site, path):
    ranges, lines = fetched(site, path, file(cut=1000, hang=True), file())
    assert ranges[1] == "bytes=1000-" and "TimeoutError: timed out; trying again" in lines[0]


# A changed file


@pytest.mark.parametrize("ranges", ["strict", "no If-Range"])
@pytest.mark.parametrize(
    "before, after",
    [
        ({"etag": '"one"'}, {"etag": '"two"'}),
        ({"etag": None, "modified": "then"}, {"etag": None, "modified": "now"}),
    ],
)
def test_a_file_that_changes_is_not_spliced(site, path, ranges, before, after):
    assert len(ZIP) == len(OTHER)  # the size does not tell them apart
    fetched(site, path, file(cut=1000, **before), file(OTHER, ranges=ranges, **after))
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize(
    "answers",
    [
        [file(ranges=None)],
        [page("later", 206, Content_Range=f"bytes 2000-2004/{len(ZIP)}", ETag='"one"'), file()],
        [page("", 416), file()],
        [page("")] + [file(ranges=None)],
    ],
    ids=["without ranges", "another range", "a shorter file", "an empty answer"],
)
def test_an_answer_that_is_not_the_rest_starts_over(site, path, answers):
    fetched(site, path, file(cut=1000), *answers)
    assert path.read_bytes() == ZIP


def test_a_corrupt_description_of_the_part_starts_over(site, path):
    failure(site, path, file(cut=1000), page("no", 404))
    path.with_name("archive.part.json").write_text("{")
    assert fetched(site, path, file())[0][-1] is None and path.read_bytes() == ZIP


# Refused


@pytest.mark.parametrize(
    "answer, words",
    [
        (page("gone", 404), "HTTP 404 Not Found, data that begin with 'gone'"),
        (
            page("<title>Log &amp;\n in</title>"),
            "HTTP 200, an HTML page ('Log & in') in place of a zip archive",
        ),
        (page("", 302, Location="ftp://127.0.0.1/a.zip"), "URLError: unknown url type: ftp"),
        (
            file(length=len(ZIP) - 7),
            f"{len(ZIP) - 7:,} bytes were received, which are no complete zip archive",
        ),
    ],
)
def test_a_refusal_is_not_tried_again(site, path, answer, words):
    assert failure(site, path, answer) == words and len(site.requests) == 1 and not path.exists()


def test_a_page_in_place_of_the_rest_keeps_the_part(site, path):
    assert "an HTML page" in failure(site, path, file(cut=1000), page("<title>Maintenance</title>"))
    assert path.read_bytes() == ZIP[:1000]


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"message": "no"}', "in place of JSON with a link in `data`"),
        ("[" * 10**5, "in place of JSON with a link in `data`"),
        ('{"data": "file:///etc/passwd"}', "unknown url type: file"),
    ],
)
def test_json_without_a_web_address_is_refused(site, path, content, words):
    site.answers["/link"] = [page(content)]
    assert words in failure(site, path, source=site.source("/link", is_link=True))


def test_a_self_signed_certificate_is_refused(tmp_path, site, path):
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    error = failure(site, path, source=Source(site.url.replace("http", "https")))
    assert "CERTIFICATE_VERIFY_FAILED" in error and not site.requests


@pytest.mark.parametrize("length", [None, 10**6])
def test_more_than_any_archive_has_is_not_received(site, tmp_path, monkeypatch, length):
    def endless(handler, site):
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(b"PK")
            while not site.closing.is_set():
                handler.wfile.write(bytes(2**12))

    monkeypatch.setattr(fetching, "MOST_BYTES", 10**5)
    site.answers["/zip"] = [endless]
    with pytest.raises(Failed, match="more than 100,000 bytes, no archive of the set"):
        fetch(site.source(), tmp_path / "zip", HASTY, print)
    assert not (tmp_path / "zip").exists() and len(site.requests) == 1
