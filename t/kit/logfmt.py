"""A strict reader of logfmt lines, written from their grammar and not from the encoder."""

from __future__ import annotations

import json
import re

_NAME = re.compile(r"[A-Za-z0-9_.-]+=")
_BARE = re.compile(r"[^\s\"=]+")


def parse(line: str) -> dict[str, str]:
    """The fields of `name=value name="quoted value"`, in order. Raises ValueError for anything else.

    Quoted values are JSON strings. A line with an unprintable character, or one name twice, is none.
    """
    if not line.isprintable():
        raise ValueError(f"unprintable: {line!r}")
    fields: dict[str, str] = {}
    at = 0
    while True:
        name = _NAME.match(line, at)
        if not name:
            raise ValueError(f"no name at {at}: {line!r}")
        at = name.end()
        if line.startswith('"', at):
            value, at = json.JSONDecoder().raw_decode(line, at)
        else:
            bare = _BARE.match(line, at)
            if not bare:
                raise ValueError(f"no value at {at}: {line!r}")
            value, at = bare.group(), bare.end()
        if fields.setdefault(name.group()[:-1], value) is not value:
            raise ValueError(f"{name.group()} twice: {line!r}")
        if at == len(line):
            return fields
        if line[at] != " ":
            raise ValueError(f"no space at {at}: {line!r}")
        at += 1
