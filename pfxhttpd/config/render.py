"""A document as YAML, for people to read and for `load` to take again."""

from __future__ import annotations

from typing import Any

import yaml


def as_yaml(document: Any) -> str:
    """Plain values as YAML, in the order they are in; texts of several lines stand in blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
