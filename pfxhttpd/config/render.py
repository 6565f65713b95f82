"""A document as YAML, for people to read and for `load` to take again."""

from __future__ import annotations

import re
from typing import Any

import yaml

# PyYAML writes these as they are and reads them as line breaks.
_ODD_BREAK = re.compile("[\x85\u2028\u2029\ufeff]")


def as_yaml(document: Any) -> str:
    """Plain values as YAML, in the order they are in; texts of several lines stand in blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _ODD_BREAK.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
