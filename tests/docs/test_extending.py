"""docs/extending.md as printed: its files and lines are added to a copy of the package, which then trains."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest
from conftest import REPOSITORY, texture, tiny_config
from PIL import Image
from ruamel.yaml import YAML

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
BLOCK = re.compile(r"`(srgan_dist/[\w/]+\.py)`:\n\n```(python|diff)\n(.*?)\n```", re.DOTALL)
PROGRAM = """\
import sys

import numpy
from srgan_dist.config import load_config
from srgan_dist.data.image_files import read_image
from srgan_dist.training import train

train(load_config("trial.yaml"))
numpy.save("read.npy", numpy.stack([read_image(path) for path in sys.argv[1:]]))
"""


def apply_diff(text, diff):
    """Insert the lines that begin with + between those around them."""
    for hunk in diff.split("\n@@\n"):
        lines = hunk.split("\n")
        before = "\n".join(line[1:] for line in lines if line.startswith(" "))
        after = "\n".join(line[1:] for line in lines)
        assert text.count(before) == 1, f"the page shows lines that its file has not:\n{before}"
        text = text.replace(before, after)
    return text


def merge(config, changes):
    """Change sections of a config: those of phases by setting, others as a whole."""
    for name, section in changes.items():
        inside = name in ("pretrain", "adversarial") and config[name]
        config[name] = config[name] | section if inside else section


def yaml():
    return YAML(typ="safe", pure=True)


@pytest.fixture(scope="module")
def trial(shards, tmp_path_factory):
    """A folder with the extended package, after a training with every component of the page."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(REPOSITORY / "srgan_dist", folder / "srgan_dist", ignore=lambda *_: ["__pycache__"])
    config = tiny_config(shards, folder, log_every=1).model_dump(mode="json")
    config["pretrain"]["steps"] = config["adversarial"]["steps"] = 2
    for section in SECTIONS.values():
        for path, kind, content in BLOCK.findall(section):
            file = folder / path
            assert file.exists() == (kind == "diff")
            file.write_text(apply_diff(file.read_text(), content) if kind == "diff" else content + "\n")
        for changes in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
            merge(config, yaml().load(changes))
    with open(folder / "trial.yaml", "w") as file:
        yaml().dump(config, file)
    for name, dtype in (("8.pgm", np.uint8), ("16.pgm", np.uint16)):
        Image.fromarray(texture(7, dtype=dtype)).save(folder / name)
    subprocess.run(
        [sys.executable, "-W", "error", "-P", "-c", PROGRAM, "8.pgm", "16.pgm"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=True,
    )
    return folder


def test_code_of_the_page_has_the_style_of_the_package(trial):
    shutil.copy(REPOSITORY / "pyproject.toml", trial)
    changed = sorted({path for section in SECTIONS.values() for path, *_ in BLOCK.findall(section)})
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *changed], cwd=trial, check=True)


def test_every_section_has_one_new_file_and_its_lines():
    for title, section in SECTIONS.items():
        kinds = [kind for _, kind, _ in BLOCK.findall(section)]
        assert kinds == ["python", "diff"] + ["diff"] * (title == "A phase"), title


def test_all_components_of_the_page_train(trial):
    records = [json.loads(line) for line in (trial / "tiny" / "metrics.jsonl").read_text().splitlines()]
    names = {name for record in records for name in record}
    assert {"loss/edges", "health/share/edges", "loss/adversarial", "loss/r1", "d/real", "d/fake"} <= names
    assert all(record.get("health/skipped", 0) == 0 for record in records)
    paired = [record for record in records if "d/real" in record]
    assert paired and all(record["d/real"] + record["d/fake"] == pytest.approx(1) for record in paired)
    recorded = yaml().load((trial / "tiny" / "config.yaml").read_text())
    assert recorded["generator"]["name"] == "vdsr" and recorded["discriminator"]["name"] == "residual"


def test_every_logged_name_is_on_the_page_of_metrics(trial):
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    listed = [re.sub("[A-Z]+", "*", name) for name in re.findall(r"`(\w+/[\w/*]+)`", page)]
    for line in (trial / "tiny" / "metrics.jsonl").read_text().splitlines():
        for name in json.loads(line).keys() - {"samples_seen", "time"}:
            assert any(fnmatch(name, pattern) for pattern in listed), name


def test_a_phase_of_the_page_comes_after_those_of_the_paper(trial):
    header = (trial / "tiny" / "weights" / "denoise.safetensors").read_bytes()
    assert b"vdsr" in header[:10_000]
    assert {path.stem for path in (trial / "tiny" / "weights").glob("*.safetensors")} == {
        "pretrain",
        "adversarial",
        "denoise",
    }


def test_the_image_format_of_the_page_reads_what_pillow_writes(trial):
    read = np.load(trial / "read.npy")
    assert np.array_equal(read[0], texture(7)) and np.array_equal(read[1], texture(7, dtype=np.uint16))
