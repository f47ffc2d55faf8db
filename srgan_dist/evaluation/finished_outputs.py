"""The record of a folder of results, by which the same command continues: which files it has finished, of
what input and with which settings.

    OUT/.upscaled.jsonl     a line per file, written before the file has its name, or is known to have it
"""

import hashlib
import json
import os

from srgan_dist.data.image_files import files_of, is_raw
from srgan_dist.utils.files import open_regular, read_regular, sha256_of, unwritable_named
from srgan_dist.utils.json_text import load_json

RECORD = ".upscaled.jsonl"


class FinishedOutputs:
    """The results in a folder. settings: plain JSON, {name: value}, of what determines them beside inputs."""

    def __init__(self, folder, settings):
        self.folder, self.settings, self.kept = folder, settings, []
        self.entries = _read(folder / RECORD)

    def add(self, info, output, content):
        """Note that `output` is, or is about to be, the file `content`, made of the Volume `info`."""
        entry = {
            "file": output.relative_to(self.folder).as_posix(),
            "sha256": sha256_of(content),
            "settings": self._settings_of(info),
        }
        path = self.folder / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry).encode() + b"\n"
        with unwritable_named(path), open_regular(path, "ab") as file:
            file.write(line if _ends_a_line(path) else b"\n" + line)

    def problem(self, info, outputs):
        """Return why the outputs of one input, some of which exist, cannot be kept; None where they can."""
        for output in outputs:
            if not os.path.lexists(output):
                other = next(path for path in outputs if os.path.lexists(path))
                return f"OUTPUT={other} exists without {output.name}, which belongs to it; delete it"
            entries = self.entries.get(output.relative_to(self.folder).as_posix(), [])
            if not entries:
                return (
                    f"OUTPUT={output} exists, and {self.folder / RECORD} does not say that this command made"
                    " it; give another name or delete it"
                )
            digest = sha256_of(output)
            made = [entry["settings"] for entry in entries if entry["sha256"] == digest]
            if not made:
                return f"OUTPUT={output} was changed after it was made; give another name or delete it"
            wanted = self._settings_of(info)
            if wanted not in made:
                names = [name for name in {**wanted, **made[-1]} if wanted.get(name) != made[-1].get(name)]
                return (
                    f"OUTPUT={output} was made with other values of: {', '.join(names)}; give another name or"
                    " delete it"
                )
        return None

    def _settings_of(self, info):
        return {"input (size or time of change)": fingerprint(info.path), **raw_facts(info), **self.settings}


def fingerprint(path):
    """Return text that changes with the names, sizes and times of change of the files of a volume."""
    files = sorted(path.rglob("*")) if path.is_dir() else files_of(path)
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def raw_facts(volume):
    """Return {name: how they lie in the file} of voxels without a header, which other options read otherwise;
    {} for other formats.
    """
    if not is_raw(volume.path):
        return {}
    _, stored, offset = volume.layout
    return {"its shape, type, byte order and offset": f"{volume.shape} {stored.str} {offset}"}


def _ends_a_line(path):
    with open_regular(path) as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) in (b"", b"\n")


def _read(path):
    """Return {file: its entries}; a line that a killed process has not finished is none."""
    found = {}
    for line in read_regular(path, 2**30).splitlines() if path.exists() else ():
        try:
            entry = load_json(line)
            found.setdefault(str(entry["file"]), []).append(
                {"sha256": entry["sha256"], "settings": dict(entry["settings"])}
            )
        except (ValueError, TypeError, LookupError, RecursionError):
            continue
    return found
