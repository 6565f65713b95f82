"""Strict parsing of JSON objects from parties that are not trusted: no member may occur twice.

Two parsers can read different values from `{"aud": "a", "aud": "b"}` (RFC 8259 section 4). A token must not have one
meaning for its issuer and another one for pfxhttpd.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

JsonObject = dict[str, Any]


def _members(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated member")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_decode = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant).decode


def parse_object(text: bytes) -> JsonObject:
    """The JSON object in UTF-8. Raises ValueError for anything else, without a part of the text in its message."""
    try:
        document = _decode(text.decode("utf-8"))
    except (ValueError, RecursionError):  # bad UTF-8 and numbers of too many digits are ValueErrors as well
        raise ValueError("no valid JSON object") from None
    if type(document) is not dict:
        raise ValueError("no JSON object")
    return document
