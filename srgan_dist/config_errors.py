"""Errors of a config: every wrong setting with its value, the rule, and the nearest key or the new name."""

import difflib
import typing
from typing import Any

from pydantic import BaseModel

from srgan_dist.utils.errors import UserError

RENAMED = {  # last part of an old key -> its replacement
    "accumulation": "gradient_accumulation_steps",
    "max_skipped": "max_consecutive_skips",
    "panels": "num_sample_images",
    "clip_gradient": "max_grad_norm",
    "anneal": "lr_schedule: {name: cosine} where it is true",
    "decay_every": "lr_schedule: {name: exponential, decay_every: N}, or {name: constant} for null",
}
RENAMED_TAGS = {"discriminator": "dense"}  # of tagged unions
RENAMED_VALUES = {("upsampling", "resize"): "nearest_before"}  # (last part of a key, value) -> value


class ConfigError(UserError):
    """Everything that is wrong with a config, one line per setting."""


def explain_faults(error, raw, model, origin):
    """Turn a ValidationError of a settings model on a nested dictionary into a ConfigError that lists every
    fault.
    """
    faults = [_explain(fault, raw, model) for fault in error.errors()]
    title = f"{origin}: {len(faults)} settings are wrong" if len(faults) > 1 else f"{origin}:"
    return ConfigError("\n".join([title, *(f"  {fault}" for fault in faults)]))


def _explain(fault, raw, model):
    path = _real_path(fault["loc"], raw, model)
    name = ".".join(path)
    value, kind = fault["input"], fault["type"]
    if kind == "extra_forbidden":
        return f"{name} = {value!r}: is not a setting; {_nearest(path, raw, model)}"
    if kind == "missing":
        return f"{name}: is missing and has no default"
    if kind == "union_tag_not_found":
        return f"{name}: needs a name, one of {_tags(path, model)}"
    if kind == "union_tag_invalid":
        return (
            f"{name}.name = {fault['ctx']['tag']!r}: is not known; {_use(fault['ctx']['tag'], path, model)}"
        )
    if kind == "literal_error" and (new := RENAMED_VALUES.get((path[-1], str(value)))):
        return f"{name} = {value!r}: is not known; it is now {new}"
    if kind == "too_short":
        return f"{name} = {value!r}: is empty; it needs one at least"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        tags = _names_at(path, model)
        use = f"{{name: {value}}}" if value in tags else f"{{name: ...}}, one of {', '.join(tags)}"
        return f"{name} = {value!r}: is not a table of settings{f'; use {use}' if tags else ''}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = f" = {value!r}" if not isinstance(value, (dict, BaseModel)) else ""
    way_out = ""
    if kind == "string_type" and value is not None:
        way_out = f"; quote it: '\"{value}\"'"
    elif kind == "int_type" and isinstance(value, float) and value.is_integer():
        way_out = f"; write {int(value)}"
    return f"{name}{shown}: {message[:1].lower() + message[1:]}{way_out}" if name else message


def _real_path(location, raw, model):
    """Return the location of a fault as keys of the file, without pydantic's own labels for members of
    unions.
    """
    path, here = [], raw
    for step in location:
        if isinstance(here, dict) and step in here:
            path.append(str(step))
            here = here[step]
        elif isinstance(here, dict) and step == here.get("name", step) and step in _all_names(model):
            continue  # the member of a union that "name" chose, or that is the default
        else:
            path.append(str(step))
            here = None
    return path


def _nearest(path, raw, model):
    """Say which real key is meant by a wrong one: a similar one of its table, the same one of another, or
    list the table.
    """
    *parents, last = path
    if others := _names_at(parents, model, last):
        return f"it belongs to {'.'.join(parents)}.name: {' or '.join(others)}"
    if last in RENAMED:
        return f"it is now {RENAMED[last]}"
    table = _tables_at(parents, raw, model)
    siblings = [key for model in table for key in model.model_fields]
    if close := difflib.get_close_matches(last, siblings, 1):
        return f"the nearest is {'.'.join([*parents, close[0]])}"
    if elsewhere := [key for key in _keys(model) if key.rpartition(".")[2] == last]:
        return f"the nearest is {elsewhere[0]}"
    return f"{'.'.join(parents) or 'a config'} has {', '.join(siblings)}"


def _tables_at(parents, raw, model):
    """Return the settings models that a table at this path may follow; where its "name" chooses one, that
    alone.
    """
    models, here = [model], raw
    for parent in parents:
        here = here.get(parent) if isinstance(here, dict) else None
        fields = [model.model_fields[parent].annotation for model in models if parent in model.model_fields]
        if fields:  # else it is a free key of a dictionary
            models = [m for annotation in fields for m in _models_in(annotation)]
    chosen = [
        m
        for m in models
        if isinstance(here, dict) and "name" in m.model_fields and here.get("name") in _names(m)
    ]
    return chosen or models


def _keys(model, prefix=""):
    """Return every dotted key of a settings model, but those below the free keys of dictionaries."""
    keys = []
    for field, info in model.model_fields.items():
        keys.append(prefix + field)
        if typing.get_origin(info.annotation) is not dict:
            keys += [
                key for member in _models_in(info.annotation) for key in _keys(member, f"{prefix}{field}.")
            ]
    return list(dict.fromkeys(keys))


def _use(tag, path, model):
    return f"it is now {RENAMED_TAGS[tag]}" if tag in RENAMED_TAGS else f"use one of {_tags(path, model)}"


def _tags(path, model):
    return ", ".join(_names_at(path, model))


def _names_at(path, model, field="name"):
    """Return the names of the members of the union at this path, of those that have a field."""
    members = [member for member in _tables_at(path, {}, model) if "name" in member.model_fields]
    return [name for member in members if field in member.model_fields for name in _names(member)]


def _all_names(model):
    """Return the names of all members of unions below a settings model."""
    models = [member for info in model.model_fields.values() for member in _models_in(info.annotation)]
    own = [name for member in models if "name" in member.model_fields for name in _names(member)]
    return {*own, *(name for member in models for name in _all_names(member))}


def _names(model):
    return typing.get_args(model.model_fields["name"].annotation)


def _models_in(annotation: Any):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
