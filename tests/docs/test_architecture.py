"""The places that docs/architecture.md names, `path:line name`, are where the code has them.

`make docs`, which runs this file, rewrites the lines of the page after a change of the code.
"""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs" / "architecture.md"
PLACE = re.compile(r"`(?P<path>[\w/]+\.py):(?P<line>\d+) (?P<name>[\w.]+)`")


def line_of(path, name):
    """Return the line at which a function or class of a file begins; name: Class.method for a method."""
    body = ast.parse((REPOSITORY / path).read_text()).body
    for part in name.split("."):
        named = (ast.FunctionDef, ast.ClassDef)
        (node,) = [node for node in body if isinstance(node, named) and node.name == part]
        body = node.body
    return node.lineno


def corrected(text):
    """Return the page with the lines that the code has."""
    return PLACE.sub(lambda m: f"`{m['path']}:{line_of(m['path'], m['name'])} {m['name']}`", text)


def test_lines_of_the_page_are_those_of_the_code():
    text = PAGE.read_text()
    assert len(PLACE.findall(text)) > 40
    assert text == corrected(text), "run make docs"


def test_every_layer_of_the_package_is_on_the_page():
    package = REPOSITORY / "srgan_dist"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    layers = PAGE.read_text().partition("## Layers")[2]
    assert folders <= set(re.findall(r"`(\w+)`", layers))


if __name__ == "__main__":
    PAGE.write_text(corrected(PAGE.read_text()))
