"""The pages of the project: their links, commands, settings and tables hold."""

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY
from ruamel.yaml import YAML

from srgan_dist import __version__
from srgan_dist.cli import VERBS
from srgan_dist.config import Config, load_config

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
FOLDERS = ("configs", "docs", "launch", "shards", "srgan_dist", "tests")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)")


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request):
    return request.param


def anchors(text):
    """Return the anchors of the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"


def test_files_that_a_page_names_exist(page):
    if page.name in ("CHANGELOG.md", "extending.md"):
        return  # one names files of before, the other files to be written
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", page.read_text()):
        assert (REPOSITORY / path).exists(), path


def test_tests_that_hold_a_promise_exist():
    for page in ("SECURITY.md", "docs/reliability.md"):
        names = re.findall(r"`((?:\w+/)?test_\w+\.py)`", (REPOSITORY / page).read_text())
        assert names and all((REPOSITORY / "tests" / name).exists() for name in names), names


def test_commands_of_a_page_exist(page):
    text = page.read_text()
    assert set(re.findall(r"srgan-dist ([a-z]+)", text)) <= {*VERBS}
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }


def test_settings_of_a_page_are_settings(page):
    given = re.findall(r"--([a-z_]+(?:\.[a-z_]+)*=[^\s`,]+)", page.read_text())
    overrides = [
        text
        for text in given
        if re.split(r"[.=]", text)[0] in Config.model_fields or "." in text.split("=")[0]
    ]
    for override in overrides:
        changed = load_config(REPOSITORY / "configs" / "demo.yaml", [override])
        assert isinstance(changed, Config)


def test_the_readme_is_a_page_or_two():
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= 170
    assert sum(line.startswith(("make demo", "make test")) for line in lines[:30]) == 3  # and one of volumes


def test_the_citation_names_this_version_and_the_paper():
    citation = YAML(typ="safe", pure=True).load(Path(REPOSITORY / "CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["references"][0]["doi"] == "10.1029/2019WR026052"
    assert f"## {__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()
