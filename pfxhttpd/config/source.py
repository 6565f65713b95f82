"""The configuration file: finding it, reading it, and choosing the format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pfxhttpd.config import json_format, toml_format, yaml_format
from pfxhttpd.config.errors import ConfigError, Location, Problem
from pfxhttpd.config.node import Node

LARGEST = 1 << 20
"""Bytes that a configuration file may have."""

_PARSERS: dict[str, Callable[[str, str], tuple[Node | None, list[Problem]]]] = {
    "yaml": yaml_format.parse,
    "json": json_format.parse,
    "toml": toml_format.parse,
}
_EXTENSIONS = {".json": "json", ".toml": "toml"}

FORMATS = tuple(_PARSERS)

_UNUSABLE = re.compile("[\0\ud800-\udfff]")

_NAMES = ("pfxhttp.yml", "pfxhttp.yaml", "pfxhttp.toml", "pfxhttp.json")


def search(home: str, cwd: str) -> str:
    """The configuration file when none is named: the first that exists. Raises Invalid, listing the places, when none does."""
    own = [os.path.join(home, ".pfxhttp")] if home else []
    places = ["/usr/local/etc/pfxhttp", "/etc/pfxhttp", *own, cwd]
    for place in places:
        for name in _NAMES:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                return path
    looked = f"{_NAMES[0]} (or .yaml, .toml, .json) in {', '.join(places)}"
    raise ConfigError([Problem("", 0, 0, "", f"no configuration file: looked for {looked}; name one with --config")])


def read(path: str) -> str:
    """The text of a configuration file. Raises Invalid when it cannot be one."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError([Problem(path, 0, 0, "", f"cannot be read: {reason}")]) from None
    if len(content) > LARGEST:
        raise ConfigError([Problem(path, 0, 0, "", f"larger than {LARGEST >> 20} MiB, which no configuration needs")])
    return decode(content, path)


def decode(content: bytes, file: str) -> str:
    """The bytes as text. Raises Invalid when they are not UTF-8 or hold a NUL byte."""
    # A codec such as utf-8-sig would be imported here, which fails inside a jail.
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(*_offset(content, error.start, file), "", "not UTF-8 text")]) from None
    if "\0" in text:
        raise ConfigError([Problem(*_offset(content, content.index(0), file), "", "holds a NUL byte")])
    return text


def _offset(content: bytes, offset: int, file: str) -> Location:
    before = content[:offset]
    column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
    return Location(file, before.count(b"\n") + 1, column)


def chosen_format(path: str, named: str | None) -> str:
    """`named`, else what the file's extension says, else yaml."""
    return named or _EXTENSIONS.get(os.path.splitext(path)[1].lower(), "yaml")


def parse(text: str, file: str, form: str) -> tuple[Node, list[Problem]]:
    """The tree and the mistakes that leave it readable. Raises Invalid when it cannot be read as `form` at all."""
    root, problems = _PARSERS[form](text, file)
    if root is None:
        raise ConfigError(problems or [Problem(file, 1, 1, "", "the file is empty")])
    if not isinstance(root.value, dict):
        raise ConfigError([*problems, root.wrong("expected a mapping of settings, such as `server:`")])
    return root, problems


def unusable_texts(node: Node) -> list[Problem]:
    """Texts below `node` that no file name, header or log can carry; they are marked as bad."""
    problems: list[Problem] = []
    for key, child in node.children():
        if isinstance(key, str) and _UNUSABLE.search(key):
            child.bad = True
            problems.append(child.wrong_key("a name must not hold U+0000 or half a surrogate pair"))
        elif isinstance(child.value, str) and _UNUSABLE.search(child.value):
            child.bad = True
            problems.append(child.wrong("a text must not hold U+0000 or half a surrogate pair"))
        else:
            problems += unusable_texts(child)
    return problems
