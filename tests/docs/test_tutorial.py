"""The notebook docs/tutorial.ipynb: without outputs, with links that lead somewhere, and executed."""

import re

import nbformat
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

PATH = REPOSITORY / "docs" / "tutorial.ipynb"
SMALL = {"TUTORIAL_IMAGES": "2", "TUTORIAL_SIZE": "128", "TUTORIAL_SECONDS": "1"}
# Warnings are errors; on one core no time goes into trying threads
FIRST = """
import os, warnings
warnings.simplefilter("error")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
"""
LAST = "warnings.simplefilter('default')"  # the end of a kernel has warnings of its own


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_no_output_is_kept(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert PATH.stat().st_size < 50_000


def test_its_links_lead_to_files(notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (PATH.parent / target).exists(), target


@pytest.mark.slow
def test_a_smaller_version_of_it_runs(notebook, tmp_path, monkeypatch):
    for name, value in SMALL.items():
        assert f'"{name}"' in notebook.cells[1].source
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    first, last = (nbformat.v4.new_code_cell(source) for source in (FIRST, LAST))
    notebook.cells = [first, *notebook.cells, last]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    texts = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "tutorial/fine.tif: (128, 128) pixels of 2.5 um" in texts
    assert re.search(r"^HR +0\.\d{3} +[\d.]+ +[\d.]+$", texts, re.MULTILINE)
    assert re.search(r"^fine-tuned +[\d.]+ dB, [+-][\d.]+ over bicubic$", texts, re.MULTILINE)
    assert (tmp_path / "tutorial" / "runs" / "two_rocks" / "eval" / "report.html").exists()
