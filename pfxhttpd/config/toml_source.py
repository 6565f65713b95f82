"""TOML to nodes. The standard library gives the values; a scan of headers and keys gives their places."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from pfxhttpd.config.lines import Lines
from pfxhttpd.config.node import DEEPEST, Node, Path
from pfxhttpd.config.problem import Invalid, Place, Problem
from pfxhttpd.config.toml_scan import Scan

_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree (None when the file holds nothing) and no mistakes. Raises Invalid when it is not TOML, or a key is given twice."""
    lines = Lines(text, file)
    scan = Scan(text, lines)
    scan.run()
    if scan.too_deep:
        raise Invalid([Problem(*scan.too_deep, "", f"not valid TOML: nested more than {DEEPEST} levels deep")])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(scan.problems or [_syntax(str(error), text, lines)]) from None
    except ValueError:  # Python's own limit on the digits of an int
        raise Invalid([Problem(*lines.place(0), "", "not valid TOML: a number with too many digits")]) from None
    if not values:
        return None, []
    return _node(values, (), lines.place(0), scan), scan.problems


def _syntax(said: str, text: str, lines: Lines) -> Problem:
    found = _WHERE.search(said)
    place = lines.place(len(text))
    if found and found[1]:
        place = place._replace(line=int(found[1]), column=int(found[2]))
    said = _WHERE.sub("", said)
    return Problem(*place, "", f"not valid TOML: {said[:1].lower()}{said[1:]}")


def _node(value: Any, path: Path, parent: Place, scan: Scan) -> Node:
    mark = scan.marks.get(path)
    node = Node(value, path, mark.at if mark else parent, mark.key if mark else parent, mark.text if mark else "")
    if isinstance(value, dict):
        node.value = {key: _node(child, (*path, key), node.at, scan) for key, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*path, index), node.at, scan) for index, child in enumerate(value)]
    elif isinstance(value, str):
        node.text = value
    return node
