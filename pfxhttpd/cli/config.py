"""`pfxhttpd config`: prints the effective configuration without its secrets."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from pfxhttpd.cli import configuration
from pfxhttpd.config import schema
from pfxhttpd.rules.redact import REDACTED, is_secret_name

_USER = re.compile(r"(?<=//)[^/?#]*@")
_PARAMETER = re.compile(r"([?&])([^=&#]*)=([^&#]*)")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
_JSON_MEMBER = re.compile(r'("((?:[^"\\]|\\.)*)"\s*:\s*)("(?:[^"\\]|\\.)*"|[^\s,}\]"{]+)')
_FORM_FIELD = re.compile(r"(^|&)([^=&\s]+)=([^&]*)")


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the configuration as YAML. Raises `ConfigError` with everything that is wrong with it."""
    path = configuration.path(options, environ)
    document = configuration.load(path, options.format, environ).document
    sys.stdout.write(as_yaml(redacted(document, schema.whole())))
    return os.EX_OK


def redacted(value: Any, part: schema.Subschema | None) -> Any:
    """A copy without secrets. The keyword `secret` of the schema says where they are."""
    redact = _REDACTORS.get((part or {}).get("secret", ""))
    if redact and value:
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(child, schema.child(part, key) if part else None) for key, child in value.items()}
    if isinstance(value, list):
        return [redacted(child, schema.child(part, 0) if part else None) for child in value]
    return value


def _whole(value: object) -> str:
    return REDACTED


def _url(value: str) -> str:
    def parameter(found: re.Match[str]) -> str:
        before, name, content = found.groups()
        return f"{before}{name}={_hidden(content) if is_secret_name(name, strict=True) else content}"

    return _PARAMETER.sub(parameter, _USER.sub(f"{REDACTED}@", value))


def _headers(value: list[str]) -> list[str]:
    return [_header(line) for line in value]


def _header(line: str) -> str:
    name = line.partition(":")[0]
    return f"{name}: {REDACTED}" if is_secret_name(name, strict=True) else line


def _payload(value: str) -> str:
    def member(found: re.Match[str]) -> str:
        before, name, content = found.groups()
        if not is_secret_name(name):
            return found[0]
        return before + (f'"{_hidden(content[1:-1])}"' if content[0] == '"' else _hidden(content))

    def field(found: re.Match[str]) -> str:
        before, name, content = found.groups()
        return f"{before}{name}={_hidden(content) if is_secret_name(name) else content}"

    return _FORM_FIELD.sub(field, _JSON_MEMBER.sub(member, value))


def _hidden(text: str) -> str:
    """`<redacted>`, unless the text consists of placeholders only, which are no secret."""
    return text if not _PLACEHOLDER.sub("", text).strip() else REDACTED


_REDACTORS: Mapping[str, Callable[[Any], Any]] = {
    "whole": _whole,
    "url": _url,
    "headers": _headers,
    "payload": _payload,
}
"""Value of the schema's keyword `secret` -> what redacts such a value."""


_UNUSUAL_LINE_BREAK = re.compile("[\x85\u2028\u2029\ufeff]")


def as_yaml(document: Any) -> str:
    """Plain values as YAML, in their order. A text of several lines is written as a block."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _UNUSUAL_LINE_BREAK.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
