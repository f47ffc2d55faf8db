"""Changes of a packed set behind its back."""

import json

import numpy as np

from srgan_dist.utils.files import sha256_of


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def trust(folder):
    """Make the manifest fit an index table that was changed."""
    path = folder / "train.index.npy"
    facts = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit_manifest(folder, lambda manifest: manifest["splits"]["train"]["index"].update(facts))


def edit_rows(folder, change):
    rows = np.load(folder / "train.index.npy")
    change(rows)
    np.save(folder / "train.index.npy", rows)
    trust(folder)
