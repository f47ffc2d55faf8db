"""List the settings of a config: srgan-dist settings [WORD] [--markdown]

The list is read off the JSON schema: dotted name, type, default, rule and description of every field of every
table, for a choice between components (`name: srresnet`) those of every member.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import groupby

from srgan_dist.utils.errors import UserError, cli_errors

HEAD = """\
# Settings

Every setting of a config, as `srgan-dist settings` lists them. In a YAML file tables are nested; on the
command line a setting is given by its dotted name: `--adversarial.learning_rate=5e-5`. KEY is a name of your
choice, N a position in a list. This page is generated: `make docs`."""

RULES = {  # keyword of JSON schema -> the rule in words
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "pattern": "matches {}",
}
NOT_EMPTY = ("minLength", "minItems", "minProperties")


@dataclass(frozen=True)
class Setting:
    table: str  # dotted name of its table, "" for the config itself
    member: str  # name of the component that the table is of, "" where there is one kind only
    field: str
    type: str
    default: str
    rule: str
    description: str

    @property
    def name(self):
        return f"{self.table}.{self.field}" if self.table else self.field


@cli_errors()
def main(argv=None, prog=None):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="List the settings of a config: name, type, default, rule and description.",
    )
    parser.add_argument(
        "word", nargs="?", metavar="WORD", help="only those with WORD in their name or description"
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown tables, see docs/settings.md")
    arguments = parser.parse_args(argv)

    from srgan_dist.config import Config

    settings = list_settings(Config.model_json_schema())
    if arguments.word:
        settings = find_settings(settings, arguments.word)
    print((format_markdown if arguments.markdown else format_text)(settings))


def find_settings(settings, word):
    """Return the settings with a word in their name or description; raises UserError for none."""
    found = [s for s in settings if word.lower() in f"{s.name} {s.member} {s.description}".lower()]
    if not found:
        raise UserError(f"WORD={word}: no setting has it in name or description; leave it out to list all")
    return found


# From the schema


def list_settings(schema):
    """Return the Settings of the JSON schema of a config, tables after the fields that hold them."""
    return list(_settings_of(schema, schema["$defs"], "", ""))


def _settings_of(table, definitions, path, member):
    nested = []
    for field, node in table["properties"].items():
        required = field in table.get("required", ())
        default = "required" if required else _format_default(node)
        description = node.get("description", "")
        rule = ", ".join(_rules(node))
        yield Setting(path, member, field, _type_of(node, definitions), default, rule, description)
        nested += _tables_in(node, definitions, f"{path}.{field}" if path else field)
    for name, inner in nested:
        kind = inner["properties"].get("name", {}).get("const", "")
        yield from _settings_of(inner, definitions, name, kind)


def _tables_in(node, definitions, name):
    """Return [(dotted name, schema)] of the tables that a field can hold."""
    if "$ref" in node:
        table = definitions[node["$ref"].rpartition("/")[2]]
        return [(name, table)] if "properties" in table else []
    found = []
    for option in _options(node):
        found += _tables_in(option, definitions, name)
    if "items" in node:
        found += _tables_in(node["items"], definitions, f"{name}.N")
    if isinstance(node.get("additionalProperties"), dict):
        found += _tables_in(node["additionalProperties"], definitions, f"{name}.KEY")
    return found


def _options(node):
    return [*node.get("anyOf", ()), *node.get("oneOf", ())]


def _type_of(node, definitions):
    if "$ref" in node:
        return _type_of(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "const" in node or "enum" in node:
        return " or ".join(map(str, node.get("enum", [node.get("const")])))
    if options := _options(node):
        return " or ".join(dict.fromkeys(_type_of(option, definitions) for option in options))
    if node["type"] == "array":
        return f"list of {_type_of(node['items'], definitions)}" if "items" in node else "list"
    return "table" if node["type"] == "object" else node["type"]


def _format_default(node):
    """Return a default as JSON; of a component only its name, for its own fields follow in the list."""
    default = node.get("default")
    if isinstance(default, dict) and not isinstance(node.get("additionalProperties"), dict):
        return f"name: {default['name']}" if "name" in default else ""
    return json.dumps(default) if "default" in node else ""


def _rules(node):
    for keyword, text in RULES.items():
        if keyword in node:
            yield text.format(node[keyword])
    if any(keyword in node for keyword in NOT_EMPTY):
        yield "not empty"
    if isinstance(node.get("items"), dict):
        yield from (f"each {rule}" for rule in _rules(node["items"]))
    for option in _options(node):
        yield from _rules(option)


# As text


def format_text(settings):
    """Return two lines per setting: name, type, rule and default; description."""
    lines = []
    for setting in settings:
        member = f" [{setting.member}]" if setting.member else ""
        default = setting.default and (
            setting.default if setting.default == "required" else f"default {setting.default}"
        )
        facts = ", ".join(filter(None, (setting.type, setting.rule, default)))
        lines.append(f"{setting.name}{member}: {facts}")
        lines += [f"    {setting.description}"] if setting.description else []
    return "\n".join(lines)


def format_markdown(settings):
    """Return a Markdown page with a table of settings per table of the config and component."""
    parts = [HEAD]
    for (table, member), group in groupby(settings, key=lambda setting: (setting.table, setting.member)):
        title = f"`{table}`" if table else "The experiment"
        parts.append(f"## {title}{f', name: {member}' if member else ''}")
        rows = [f"| {' | '.join(map(_cell, _columns(setting)))} |" for setting in group]
        parts.append(
            "\n".join(["| setting | type | default | rule | description |", "|---|---|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


def _columns(setting):
    return f"`{setting.field}`", setting.type, setting.default, setting.rule, setting.description


def _cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")
