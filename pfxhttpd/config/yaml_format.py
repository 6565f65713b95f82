"""YAML to nodes. PyYAML scans and composes; the types are given here, so that every value keeps its place.

Only plain data is made: no tag constructs anything. Aliases and merge keys work, within a budget of values.
"""

from __future__ import annotations

import yaml
from yaml.composer import ComposerError
from yaml.constructor import SafeConstructor

from pfxhttpd.config.errors import ConfigError, Location, Problem
from pfxhttpd.config.node import MAX_DEPTH, Node, Path

MOST_VALUES = 50_000
"""Values that a file may come to once its aliases are expanded."""

_CORE = "tag:yaml.org,2002:"
_TEXT = {_CORE + name for name in ("str", "timestamp", "value", "merge")}

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
    ("expected a single document", "a second document begins here; only one is allowed"),
)


def parse(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree (None when the file holds nothing) and the mistakes that leave it readable. Raises Invalid when it is not YAML."""
    composer = None
    try:
        composer = _Composer(text)
        root = composer.get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Location(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise ConfigError(
            [Problem(*place, "", f"not valid YAML: the character U+{_code(error.character):04X} is not allowed")]
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax(error, file)]) from None
    except (ValueError, OverflowError):  # PyYAML on an escape beyond Unicode, such as "\UFFFFFFFF"
        mark = composer.get_mark() if composer else None
        place = _place(mark, file) if mark else Location(file)
        raise ConfigError([Problem(*place, "", "not valid YAML: an escape that names no character")]) from None
    if root is None:
        return None, []
    reader = _Reader(file)
    return reader.node(root, (), _place(root.start_mark, file)), reader.problems


def _code(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)


def _place(mark: yaml.Mark, file: str) -> Location:
    return Location(file, mark.line + 1, mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = " ".join(str(error.problem or error.context or "it cannot be read").split())
    said = next((hint for sign, hint in _HINTS if sign in f"{error.context} {said}"), said)
    return Problem(*(_place(mark, file) if mark else Location(file)), "", f"not valid YAML: {said}")


class _Composer(yaml.SafeLoader):
    """PyYAML's composer with a floor under its recursion."""

    depth = 0

    def compose_node(self, parent, index):  # type: ignore[no-untyped-def]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Reader:
    """One walk over the composed graph, which aliases may have made much larger than the file, or endless."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._left = MOST_VALUES
        self._twice: set[int] = set()
        self._numbers = SafeConstructor()
        self._kinds = {
            _CORE + "null": lambda node: None,
            _CORE + "bool": self._numbers.construct_yaml_bool,
            _CORE + "int": self._numbers.construct_yaml_int,
            _CORE + "float": self._numbers.construct_yaml_float,
        }

    def node(self, source: yaml.Node, path: Path, key: Location) -> Node:
        at = _place(source.start_mark, self.file)
        node = Node(None, path, at, key)
        self._left -= 1
        if self._left < 0:
            raise ConfigError(
                [node.wrong(f"more than {MOST_VALUES} values, aliases expanded, which no configuration needs")]
            )
        if len(path) > MAX_DEPTH:
            raise ConfigError(
                [Problem(*at, "", f"not valid YAML: nested more than {MAX_DEPTH} levels deep (an alias of itself?)")]
            )
        if isinstance(source, yaml.MappingNode) and source.tag == _CORE + "map":
            node.value = self._mapping(source, path)
        elif isinstance(source, yaml.SequenceNode) and source.tag == _CORE + "seq":
            node.value = [
                self.node(item, (*path, index), _place(item.start_mark, self.file))
                for index, item in enumerate(source.value)
            ]
        elif isinstance(source, yaml.ScalarNode) and source.tag in _TEXT:
            node.value = node.text = source.value
        elif isinstance(source, yaml.ScalarNode) and source.tag in self._kinds:
            node.text = source.value
            try:
                node.value = self._kinds[source.tag](source)
            except (ValueError, OverflowError, KeyError, IndexError):
                node.bad = True
                self.problems.append(node.wrong("not a value that this tag or form can hold"))
        else:
            node.bad = True
            self.problems.append(
                node.wrong("a YAML tag that means nothing here (a value that begins with ! must be in quotes)")
            )
        return node

    def _mapping(self, source: yaml.MappingNode, path: Path) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for name, value in source.value:
            place = _place(name.start_mark, self.file)
            if name.tag == _CORE + "merge":
                for block in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(block, yaml.MappingNode):
                        self.problems.append(
                            Problem(*place, "", "a merge key (<<) takes a mapping, or a list of mappings")
                        )
                        continue
                    inner = self.node(block, path, place)
                    for key, node in inner.value.items() if inner.value else ():
                        merged.setdefault(key, node)
            elif not isinstance(name, yaml.ScalarNode):
                self.problems.append(Problem(*place, "", "a key must be a name"))
            else:
                node = self.node(value, (*path, name.value), place)
                if name.value in own and name.start_mark.index in self._twice:
                    continue  # reported where the anchor stands; this is an alias of it
                if name.value in own:
                    self._twice.add(name.start_mark.index)
                    self.problems.append(
                        node.wrong_key(f"given twice; the first is in line {own[name.value].key.line}")
                    )
                else:
                    own[name.value] = node
        return merged | own
