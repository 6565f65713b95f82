#!/usr/bin/env python3
"""Writes the key reference in man/pfxhttp.yml.5 from the descriptions in pfxhttpd/config/schema.json.

    man/generate.py           rewrite the generated parts of the page
    man/generate.py --check   exit with 1 if they are not up to date

A generated part stands between the comment lines `.\\" Generated: NAME` and `.\\" End of NAME`, where NAME is one of
`PARTS`. The rest of the page is written by hand. Nothing but the standard library is needed.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]
PAGE = TREE / "man/pfxhttp.yml.5"
SCHEMA = json.loads((TREE / "pfxhttpd/config/schema.json").read_text("utf-8"))
DEFINITIONS = SCHEMA["$defs"]

WIDTH = 78
"""Characters in a line of the page's source."""

Declaration = dict[str, Any]
Keys = dict[str, Declaration]


def resolved(declaration: Declaration) -> Declaration:
    """The declaration with what it refers to; its own keywords take precedence."""
    while "$ref" in declaration:
        own = {keyword: value for keyword, value in declaration.items() if keyword != "$ref"}
        declaration = {**DEFINITIONS[declaration["$ref"].removeprefix("#/$defs/")], **own}
    return declaration


def keys_of(block: Declaration) -> Keys:
    """The keys of a block that have an effect, in the order of the schema."""
    found = {name: resolved(declaration) for name, declaration in block["properties"].items()}
    return {name: declaration for name, declaration in found.items() if not declaration.get("ignored")}


ENTRIES = [keys_of(DEFINITIONS[kind]) for kind in ("socket_map", "policy_service", "sasl")]
MAPS, POLICIES, LOGINS = ENTRIES
BACKEND_TOKENS = keys_of(DEFINITIONS["backend_oidc_auth"])
USER_TOKENS = keys_of(DEFINITIONS["sasl_oidc_auth"])


def shared(first: Keys, *others: Keys) -> Keys:
    """The keys that all of the blocks have. Where their declarations differ, the first block's is taken."""
    return {name: declaration for name, declaration in first.items() if all(name in other for other in others)}


def equal(first: Keys, second: Keys) -> Keys:
    """The keys that both blocks declare in the same way."""
    return {name: declaration for name, declaration in first.items() if second.get(name) == declaration}


def only(block: Keys, *others: Keys) -> Keys:
    """The keys that none of the other blocks declares in the same way."""
    return {
        name: declaration
        for name, declaration in block.items()
        if all(other.get(name) != declaration for other in others)
    }


# Text


def escaped(text: str) -> str:
    """The text with no character in it that has a meaning for roff."""
    text = text.replace("\\", "\\e").replace('"', "\\(dq").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def quoted(text: str) -> str:
    """The text as one argument of a macro."""
    return f'"{escaped(text)}"' if re.search(r"[\s,.:;()|]", text) or text.istitle() else escaped(text)


def prose(text: str) -> Iterator[str]:
    """The lines of a description. Each sentence begins on a line of its own, as mdoc(7) asks; `code` is set off."""
    for sentence in re.split(r"(?<=[.;:]) (?=[A-Z`])", text):
        for index, piece in enumerate(re.split(r"([^\s`]*`[^`]+`[^\s`]*)", sentence)):
            piece = piece.strip()
            if index % 2:
                before, code, after = piece.split("`")
                opening = [*before, quoted(code)]
                yield " ".join([".Ql", *opening, *after])
            elif piece:
                yield from textwrap.wrap(escaped(piece).replace("\\-", "-"), WIDTH, break_on_hyphens=False)


# One key


TYPES = {
    "string": "text",
    "integer": "number",
    "number": "number",
    "array": "list",
    "object": "block",
    "boolean": "boolean",
}


def kind_of(declaration: Declaration) -> str:
    """The type of the value, with its bounds or its choices."""
    if "duration" in declaration:
        bounds = declaration["duration"]
        return f"duration, from {bounds['minimum']} to {bounds['maximum']}"
    if "enum" in declaration:
        choices = [choice for choice in declaration["enum"] if choice]
        return f"one of {', '.join(choices[:-1])} and {choices[-1]}"
    types = declaration["type"]
    words = [TYPES[each] for each in ([types] if isinstance(types, str) else types)]
    text = " or ".join(dict.fromkeys(words))
    if "minimum" in declaration:
        text += f", from {declaration['minimum']} to {declaration['maximum']}"
    return text


def in_yaml(value: Any) -> str:
    """A value as it may stand in a YAML file, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(in_yaml(each) for each in value)}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if '"' in value:
        return f"'{value}'"
    return (
        value
        if re.fullmatch(r"[A-Za-z/][\w./ -]*|https?://[\w./:-]+|[1-9]\d*(ms|s|m|h)|\w+:\w+|[1-9][\d.]+\.\d+", value)
        else f'"{value}"'
    )


def facts(declaration: Declaration) -> Iterator[str]:
    """Type, default and origin, each a line."""
    yield f"Type: {kind_of(declaration)}."
    default = declaration.get("default")
    if default not in (None, "", {}, []):
        yield f"Default: {in_yaml(default)}."
    if "origin" in declaration:
        yield f"Origin: {declaration['origin']}."


def item(name: str, declaration: Declaration, path: str) -> Iterator[str]:
    """The entry of one key. `path` is the key as it stands in the page."""
    yield f".It Cm {path}"
    yield from prose(declaration["description"])
    yield ".Pp"
    for fact in facts(declaration):
        yield from textwrap.wrap(escaped(fact).replace("\\-", "-"), WIDTH, break_on_hyphens=False)
    examples = declaration.get("examples", [])
    if examples:
        yield "Example:" if len(examples) == 1 else "Examples:"
        yield ".Bd -literal -offset indent -compact"
        for example in examples:
            yield escaped(f"{name}: {in_yaml(example)}")
        yield ".Ed"


def reference(keys: Keys, prefix: str = "") -> Iterator[str]:
    """The list of the keys that are not blocks."""
    plain = {name: each for name, each in keys.items() if "properties" not in each}
    if plain:
        yield ".Bl -tag -width Ds"
        for name, declaration in plain.items():
            yield from item(name, declaration, prefix + name)
        yield ".El"


def nested(keys: Keys, prefix: str) -> Iterator[str]:
    """The keys of a section: those of its own first, and then each block under a heading with its keys."""
    yield from reference(keys, prefix)
    for name, declaration in keys.items():
        if "properties" in declaration:
            yield f".Ss {prefix}{name}"
            yield from prose(declaration["description"])
            yield from nested(keys_of(declaration), f"{prefix}{name}.")


def with_blocks(keys: Keys) -> Iterator[str]:
    """The keys, blocks among them, whose own keys are described elsewhere in the page."""
    yield ".Bl -tag -width Ds"
    for name, declaration in keys.items():
        yield from item(name, declaration, name)
    yield ".El"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "listener": lambda: with_blocks(keys_of(DEFINITIONS["listener"])),
    "listener.worker_pool": lambda: reference(
        keys_of(DEFINITIONS["listener"]["properties"]["worker_pool"]), "worker_pool."
    ),
    "server": lambda: nested(
        {name: each for name, each in keys_of(DEFINITIONS["server"]).items() if name != "listen"}, "server."
    ),
    "entries": lambda: with_blocks(shared(*ENTRIES)),
    "lookups": lambda: with_blocks(only(shared(MAPS, POLICIES), LOGINS, shared(*ENTRIES))),
    "policies": lambda: with_blocks(only(POLICIES, MAPS, LOGINS)),
    "logins": lambda: with_blocks(only(LOGINS, MAPS, POLICIES)),
    "tokens": lambda: with_blocks(equal(BACKEND_TOKENS, USER_TOKENS)),
    "tokens for backends": lambda: with_blocks(only(BACKEND_TOKENS, USER_TOKENS)),
    "tokens of users": lambda: with_blocks(only(USER_TOKENS, BACKEND_TOKENS)),
}
"""What can be generated, by the name in the page."""

MARKED = re.compile(r'(?ms)^(\.\\" Generated: ([^\n]+)\n).*?^(\.\\" End of \2\n)')


def generated(page: str) -> str:
    """The page with its generated parts made anew."""
    return MARKED.sub(lambda found: found[1] + "\n".join(PARTS[found[2]]()) + "\n" + found[3], page)


def main(arguments: list[str]) -> int:
    old = PAGE.read_text("utf-8")
    new = generated(old)
    if arguments == ["--check"]:
        return int(new != old)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 64
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
