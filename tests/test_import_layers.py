"""The shape of the code: imports point down and in no circle, files and lines are short, ruff passes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

LAYERS = [  # from low to high: folders and files of srgan_dist
    {"utils", "weights"},
    {"runtime"},
    {"storage"},
    {"data", "measures"},
    {"packing", "integrity", "datasets", "models", "losses", "optim"},
    {"phases"},
    {"evaluation", "tracking"},
    {"config", "config_errors"},
    {"run"},
    {"training", "benchmarks"},
    {"api", "images", "cli", "__main__"},
]
MAX_LINES, MAX_COLUMNS = 350, 110


def tracked(*patterns):
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [path for path in map(REPOSITORY.joinpath, sorted(names)) if path.exists()]


def module_of(path):
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in tracked("srgan_dist/*.py")}


def imports_of(path, at_start_only=False):
    """Return the modules of this package that a file imports; at_start_only: not inside of functions."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if at_start_only and node in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return sorted(found & MODULES.keys())


def layer_of(module):
    """Return the number of a module's layer; srgan_dist itself, the public API, is above all others."""
    parts = module.split(".")
    if len(parts) == 1:
        return len(LAYERS)
    (number,) = [number for number, names in enumerate(LAYERS) if parts[1] in names]
    return number


def test_every_module_has_a_layer():
    names = set().union(*LAYERS)
    assert {module.split(".")[1] for module in MODULES if "." in module} <= names


def test_imports_point_down():
    upward = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports_of(path)
        if layer_of(imported) > layer_of(module) and imported != "srgan_dist"
    ]
    assert upward == []


def test_no_import_goes_in_a_circle():
    left = {module: set(imports_of(path, at_start_only=True)) - {module} for module, path in MODULES.items()}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        for module in free:
            del left[module]
    assert left == {}


@pytest.mark.parametrize("import_line, expected", [("import a.b", {"a.b"}), ("from a import b", {"a.b"})])
def test_imports_of_modules_and_from_packages_are_found(tmp_path, monkeypatch, import_line, expected):
    monkeypatch.setitem(MODULES, "a.b", tmp_path / "b.py")
    (tmp_path / "importing.py").write_text(f"def function():\n    {import_line}\n")
    assert set(imports_of(tmp_path / "importing.py")) == expected
    assert imports_of(tmp_path / "importing.py", at_start_only=True) == []


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_lines_are_short():
    long = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in tracked("*.py", "*.yaml", "*.yml")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert long == []


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_passes(command):
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, *command, "--quiet"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
