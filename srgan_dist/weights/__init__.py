"""Weights that come with srgan_dist: folders as `export` writes them, which are found by their names."""

from pathlib import Path

FOLDER = Path(__file__).parent
ROCKS_X4 = "rocks_x4"  # docs/weights.md
