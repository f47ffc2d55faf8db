"""Generators as folders in the layout of the Hugging Face hub: config.json, model.safetensors, README.md."""

import json
import re
import secrets
import shutil
from pathlib import Path

import srgan_dist
from srgan_dist.models.model_card import model_card
from srgan_dist.models.weights_file import MODEL, save_generator
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.files import beside, take_name
from srgan_dist.utils.tensor_files import write_failures_named

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
URL_HOST = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/+[^/\\?#]*")  # with the scheme; not C:/


def save_folder(folder, generator, facts):
    """Write config.json, model.safetensors and README.md into a new folder, all or nothing; `load_generator`
    takes it.

    facts: those of the weights file, as they are `travelling`. Raises UserError where something has the
    folder's name already.
    """
    folder = Path(folder)
    facts = travelling(facts)
    names = "phase", "window", "grey_ranges", "data", "provenance"
    config = {
        "model_type": "srgan_dist",
        "srgan_dist_version": srgan_dist.__version__,
        "generator": generator.config.model_dump(mode="json"),
        **{name: facts[name] for name in names if facts.get(name)},
    }
    if folder.exists():
        raise UserError(f"{folder} exists and is left as it is; give another name or delete it")
    with write_failures_named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = beside(folder, f".{secrets.token_hex(4)}.unfinished", hidden=True)
        unfinished.mkdir()
        try:
            (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (unfinished / "README.md").write_text(model_card(generator, facts), encoding="utf-8")
            save_generator(unfinished / MODEL, generator, facts)
            take_name(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def travelling(facts):
    """Return facts whose config, where they have one, is a `travelling_config`."""
    config = facts.get("config")
    return facts | {"config": travelling_config(config)} if isinstance(config, dict) else facts


def travelling_config(config):
    """Return a config, as JSON, without what belongs to one machine or person: its output folder, its
    settings of wandb, and all of its paths and URLs but their last parts.
    """
    return _without_paths({k: v for k, v in config.items() if k not in ("output", "tracking")})


def _without_paths(value):
    if isinstance(value, dict):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    return _last_part(value) if isinstance(value, str) and ("/" in value or "\\" in value) else value


def _last_part(path):
    """Return the last part of a path, or of the path of a URL without its query; None where there is none."""
    path = re.split(r"[?#]", URL_HOST.sub("", path))[0]
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or None


def find_folder(name, revision=None):
    """Return the folder or file of pretrained weights: a path, or the copy of a repository of the Hugging
    Face hub, which is downloaded if need be.

    name: a path that exists, or the id of a repository, OWNER/NAME. revision: of that: branch, tag or commit.
    """
    if Path(name).exists():
        if revision is not None:
            raise UserError(
                f"revision={revision!r} is for a repository of the hub, and {name} is a path; leave it out"
            )
        return Path(name)
    if not HUB_ID.fullmatch(str(name)):
        raise UserError(
            f"{name} is neither a file or folder nor the id of a repository of the Hugging Face hub,"
            " OWNER/NAME; give one of them"
        )
    from huggingface_hub import snapshot_download

    try:
        patterns = ["config.json", MODEL, "README.md"]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the network, of its proxies, of the hub
        words = " ".join(str(error).split())
        raise UserError(
            f"{name} is no file or folder here, and cannot be fetched from the Hugging Face hub"
            f" ({type(error).__name__}: {words:.200}); check the name and the network, or give a path"
        ) from None
