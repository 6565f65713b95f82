"""What a valid configuration asks for and this version cannot do. Such a configuration loads, but is not served."""

from __future__ import annotations

from typing import Iterator

from pfxhttpd.config.node import dotted
from pfxhttpd.config.problem import Problem
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS, Entry, Settings


def unsupported(settings: Settings) -> list[Problem]:
    """One problem for each use. Their places are not known any more; their paths name the entries."""
    found = [problem for entries in settings.entries.values() for entry in entries.values()
             for problem in _of_entry(entry, settings.source)]
    return sorted(found)


def _of_entry(entry: Entry, file: str) -> Iterator[Problem]:
    uses = {
        "backend_oidc_auth": (entry.backend_oidc.enabled, "getting OIDC tokens for a backend"),
        "sasl_oidc_auth": (entry.kind == DOVECOT_SASL and entry.sasl_oidc.enabled, "validating the OAuth tokens of users"),
    }
    for block, (used, what) in uses.items():
        if used:
            yield Problem(file, 0, 0, dotted((SECTIONS[entry.kind], entry.name, block)),
                          f"{what} is not possible in this version (set `enabled: false`)")
