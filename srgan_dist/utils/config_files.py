"""The YAML files of configs/: package data in a wheel, a folder beside the package in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def config_file(name):
    """Return the path of a file of configs/."""
    installed = PACKAGE / "configs"
    return (installed if installed.is_dir() else PACKAGE.parent / "configs") / name
