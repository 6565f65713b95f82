"""The configuration file: finding it, reading it, and turning it into a tree.

The tree has the overrides from the environment in it, and its values have the types that the schema wants where the
text leaves no doubt. It is not validated: that is the task of `config.load`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping

from pfxhttpd.config import environment, schema
from pfxhttpd.config.errors import ConfigError, Location, Problem
from pfxhttpd.config.node import Node

MAX_SIZE = 1 << 20
"""Bytes that a configuration file may have."""

FORMATS = ("yaml", "json", "toml")
"""The modules of `config.formats`. Each is imported when a file has that format."""

EXTENSION = "x-"
"""How the keys at the top level begin that are not read. They hold what the rest of a YAML file refers to."""

_EXTENSIONS = {".json": "json", ".toml": "toml"}

_FILE_NAMES = ("pfxhttp.yml", "pfxhttp.yaml", "pfxhttp.toml", "pfxhttp.json")

_UNUSABLE = re.compile("[\0\ud800-\udfff]")

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


def search(home: str, cwd: str) -> str:
    """The configuration file when none is named: the first that exists.

    Raises `ConfigError`, which lists the directories, when there is none.
    """
    own = [os.path.join(home, ".pfxhttp")] if home else []
    directories = ["/usr/local/etc/pfxhttp", "/etc/pfxhttp", *own, cwd]
    for directory in directories:
        for name in _FILE_NAMES:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                return path
    looked = f"{_FILE_NAMES[0]} (or .yaml, .toml, .json) in {', '.join(directories)}"
    raise ConfigError([Problem("", 0, 0, "", f"no configuration file: looked for {looked}; name one with --config")])


def chosen_format(path: str, named: str | None) -> str:
    """`named`, else the format that the file's extension stands for, else yaml."""
    return named or _EXTENSIONS.get(os.path.splitext(path)[1].lower(), "yaml")


def read(path: str) -> str:
    """The text of a configuration file. Raises `ConfigError` when it cannot be read or decoded."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError([Problem(path, 0, 0, "", f"cannot be read: {reason}")]) from None
    if len(content) > MAX_SIZE:
        raise ConfigError([Problem(path, 0, 0, "", f"larger than {MAX_SIZE >> 20} MiB, which no configuration needs")])
    return decode(content, path)


def decode(content: bytes, file: str) -> str:
    """The bytes as text, without a byte order mark. Raises `ConfigError` when they are not UTF-8 or hold a NUL byte."""
    # A codec such as utf-8-sig would be imported here, which fails inside a jail.
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(*_location(content, error.start, file), "", "not UTF-8 text")]) from None
    if "\0" in text:
        raise ConfigError([Problem(*_location(content, content.index(0), file), "", "holds a NUL byte")])
    return text


def _location(content: bytes, offset: int, file: str) -> Location:
    before = content[:offset]
    column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
    return Location(file, before.count(b"\n") + 1, column)


def tree(text: str, file: str, format: str, environ: Mapping[str, str]) -> tuple[Node, list[Problem]]:
    """The tree of a text in this format, and the mistakes found so far. `file` names the text in messages.

    Raises `ConfigError` when the text cannot be read as `format` at all.
    """
    root, problems = parse(text, file, format)
    for key in [key for key in root.value if key.startswith(EXTENSION)]:
        del root.value[key]
    problems += environment.override(root, environ)
    problems += _unusable_texts(root)
    _coerce(root, schema.whole())
    return root, problems


def parse(text: str, file: str, format: str) -> tuple[Node, list[Problem]]:
    """The tree as written, and the mistakes that still leave one. Raises `ConfigError` when there is no tree."""
    root: Node | None
    problems: list[Problem]
    root, problems = importlib.import_module(f"pfxhttpd.config.formats.{format}").parse(text, file)
    if root is None:
        raise ConfigError(problems or [Problem(file, 1, 1, "", "the file is empty")])
    if not isinstance(root.value, dict):
        raise ConfigError([*problems, root.problem("expected a mapping of settings, such as `server:`")])
    return root, problems


def _unusable_texts(node: Node) -> list[Problem]:
    """The texts below `node` that no file name, header or log can hold. They are marked as bad."""
    problems: list[Problem] = []
    for key, child in node.children():
        if isinstance(key, str) and _UNUSABLE.search(key):
            child.bad = True
            problems.append(child.key_problem("a name must not hold U+0000 or half a surrogate pair"))
        elif isinstance(child.value, str) and _UNUSABLE.search(child.value):
            child.bad = True
            problems.append(child.problem("a text must not hold U+0000 or half a surrogate pair"))
        else:
            problems += _unusable_texts(child)
    return problems


def _coerce(node: Node, part: schema.Subschema | None) -> None:
    """Remove bad values, and turn scalars into the wanted type where the text leaves no doubt, as the original did.

    A value that is still of a wrong type is left to the schema's check to report.
    """
    if part is None:
        return
    if isinstance(node.value, dict):
        has_entries = isinstance(part.get("additionalProperties"), dict)
        for key, child in list(node.value.items()):
            if child.bad:
                del node.value[key]
                node.dropped.add(key)
            elif child.value is None and not has_entries:
                del node.value[key]
            else:
                if child.value is None:
                    child.value = {}  # an entry that has nothing but the defaults
                _coerce(child, schema.child(part, key))
    elif isinstance(node.value, list):
        node.value = [child for child in node.value if not child.bad]
        for index, child in enumerate(node.value):
            _coerce(child, schema.child(part, index))
    else:
        _coerce_scalar(node, part)


def _coerce_scalar(node: Node, part: schema.Subschema) -> None:
    value, types = node.value, schema.types(part)
    if isinstance(value, str) and part.get("caseless") and value.lower() in part["enum"]:
        node.value = value.lower()
    elif isinstance(value, str) and "string" not in types:
        if "integer" in types and _DECIMAL.fullmatch(value):
            node.value = int(value)
        elif "boolean" in types and value in ("true", "false"):
            node.value = value == "true"
    elif isinstance(value, float) and "integer" in types and value.is_integer() and abs(value) < 1e18:
        node.value = int(value)
    elif isinstance(value, int) and not isinstance(value, bool) and types == ("string",) and node.text == str(value):
        node.value = node.text
