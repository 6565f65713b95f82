"""YAML. PyYAML scans and composes; the values are made here, so that each of them keeps its location.

Only plain data is made: no tag constructs anything. Aliases and merge keys work, within a limit on the number of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import SafeConstructor

from pfxhttpd.config.errors import ConfigError, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path

MAX_VALUES = 50_000
"""Values that a file may have once its aliases are expanded."""

_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = {_CORE + name for name in ("str", "timestamp", "value", "merge")}

_HINTS = (
    ("found undefined alias", "an undefined alias (a value that begins with * must be in quotes)"),
    (
        "that cannot start any token",
        "a character that cannot begin a value here (quote it; indent with spaces, not tabs)",
    ),
    (
        "mapping values are not allowed here",
        "a colon is not allowed here (is the indentation right, or are quotes missing?)",
    ),
    ("could not find expected ':'", "a key without a colon before this line (is a space missing after the colon?)"),
    ("expected <block end>", "this does not belong here (is the indentation right, or are quotes missing?)"),
    ("expected a single document", "a second document begins here; only one is allowed"),
)
"""Part of a message of PyYAML -> the message that replaces it."""


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree and the mistakes that still leave one. Raises `ConfigError` when the text is not YAML."""
    composer = None
    try:
        composer = _Composer(text)
        root = composer.get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        location = Location(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        message = f"not valid YAML: the character U+{_code_point(error.character):04X} is not allowed"
        raise ConfigError([Problem(*location, "", message)]) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, file)]) from None
    except (ValueError, OverflowError):  # PyYAML on an escape beyond Unicode, such as "\UFFFFFFFF"
        mark = composer.get_mark() if composer else None
        location = _location(mark, file) if mark else Location(file)
        raise ConfigError([Problem(*location, "", "not valid YAML: an escape that names no character")]) from None
    if root is None:
        return None, []
    reader = _Reader(file)
    return reader.node(root, (), _location(root.start_mark, file)), reader.problems


def _code_point(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)


def _location(mark: yaml.Mark, file: str) -> Location:
    return Location(file, mark.line + 1, mark.column + 1)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = " ".join(str(error.problem or error.context or "it cannot be read").split())
    message = next((hint for part, hint in _HINTS if part in f"{error.context} {message}"), message)
    return Problem(*(_location(mark, file) if mark else Location(file)), "", f"not valid YAML: {message}")


class _Composer(yaml.SafeLoader):
    """PyYAML's composer with a limit on its recursion."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Reader:
    """Reads nodes from the composed graph, which aliases may have made much larger than the file, or endless."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._values_left = MAX_VALUES
        self._reported: set[int] = set()  # offsets of the keys that were reported as given twice
        constructor = SafeConstructor()
        self._constructors = {
            _CORE + "null": lambda node: None,
            _CORE + "bool": constructor.construct_yaml_bool,
            _CORE + "int": constructor.construct_yaml_int,
            _CORE + "float": constructor.construct_yaml_float,
        }

    def node(self, source: yaml.Node, path: Path, key: Location) -> Node:
        """A composed node as our own. `key` is the location of its key. Raises `ConfigError` past the limits."""
        location = _location(source.start_mark, self.file)
        node = Node(None, path, location, key)
        self._values_left -= 1
        if self._values_left < 0:
            message = f"more than {MAX_VALUES} values, aliases expanded, which no configuration needs"
            raise ConfigError([node.problem(message)])
        if len(path) > MAX_DEPTH:
            message = f"not valid YAML: nested more than {MAX_DEPTH} levels deep (an alias of itself?)"
            raise ConfigError([Problem(*location, "", message)])
        if isinstance(source, yaml.MappingNode) and source.tag == _CORE + "map":
            node.value = self._mapping(source, path)
        elif isinstance(source, yaml.SequenceNode) and source.tag == _CORE + "seq":
            node.value = [
                self.node(item, (*path, index), _location(item.start_mark, self.file))
                for index, item in enumerate(source.value)
            ]
        elif isinstance(source, yaml.ScalarNode) and source.tag in _TEXT_TAGS:
            node.value = node.text = source.value
        elif isinstance(source, yaml.ScalarNode) and source.tag in self._constructors:
            node.text = source.value
            try:
                node.value = self._constructors[source.tag](source)
            except (ValueError, OverflowError, KeyError, IndexError):
                node.bad = True
                self.problems.append(node.problem("not a valid value of its YAML type"))
        else:
            node.bad = True
            self.problems.append(
                node.problem("a YAML tag that means nothing here (a value that begins with ! must be in quotes)")
            )
        return node

    def _mapping(self, source: yaml.MappingNode, path: Path) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in source.value:
            location = _location(key.start_mark, self.file)
            if key.tag == _CORE + "merge":
                for name, node in self._merged(value, path, location):
                    merged.setdefault(name, node)
            elif not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(*location, "", "a key must be a name"))
            else:
                node = self.node(value, (*path, key.value), location)
                if key.value not in own:
                    own[key.value] = node
                elif key.start_mark.index not in self._reported:  # an alias of this mapping comes here again
                    self._reported.add(key.start_mark.index)
                    first = own[key.value].key_location.line
                    self.problems.append(node.key_problem(f"given twice; the first is in line {first}"))
        return merged | own

    def _merged(self, value: yaml.Node, path: Path, location: Location) -> Iterator[tuple[str, Node]]:
        """The keys that a merge key (`<<`) at `location` takes over, in order of precedence."""
        for block in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(block, yaml.MappingNode):
                yield from (self.node(block, path, location).value or {}).items()
            else:
                self.problems.append(Problem(*location, "", "a merge key (<<) takes a mapping, or a list of mappings"))
