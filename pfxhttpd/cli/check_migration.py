"""`pfxhttpd check --migrate`: what a configuration written for the Go program pfxhttp does differently here, key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pfxhttpd.config import schema
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, dotted

_ENTRY = r"(socket_maps|policy_services|dovecot_sasl)\.[^.]+"
_DIFFERENCES = {
    r"server\.(listen\[\d+\]\.)?worker_pool\.max_workers": (
        "workers are processes here; the number is that of requests that are answered at the same time, and a connection"
        " that sends nothing occupies none"
    ),
    r"server\.(listen\[\d+\]\.)?worker_pool\.max_queue": (
        "counts clients that have sent a request, not connections; when it is full, nothing is lost, but further"
        " connections are not accepted until a worker is free"
    ),
    r"server\.http_client\.timeout": "limits a whole request, from the connection to the last byte of the response",
    r"server\.response_cache\.enabled": (
        "a cached answer is used only while the backend fails; the cache survives a reload, and errors are not stored"
    ),
    r"server\.chroot": "the directory must contain etc/resolv.conf, etc/hosts and etc/nsswitch.conf",
    r"server\.run_as_user": "the supplementary groups are those of this user",
    r"server\.logging\.level": "an unknown level is an error",
    _ENTRY + r"\.payload": (
        "placeholders in a JSON string are escaped, so that no key can end the string; an unknown placeholder is an error"
    ),
    _ENTRY
    + r"\.value_field": "is a path, such as data.result or items.0.name; whole numbers are written without .000000",
    _ENTRY + r"\.error_field": "is a path, such as data.error",
    _ENTRY + r"\.status_code": (
        "a code from 500 to 599, 408, 425 and 429 that is not listed is a temporary failure; others are permanent errors"
    ),
    r"dovecot_sasl\.[^.]+\.target": (
        "if the backend fails, the connection is closed without a reply, so that Postfix answers 454 and no mail client asks"
        " for a new password; `temporary_failure: fail` sends a reply. A status code without Auth-Status that is not"
        " expected is such a failure too, unless reject_status lists it"
    ),
    r"policy_services\.[^.]+\.target": (
        "if there is no valid answer, failure_action is the action; the cache ignores the attributes of cache_ignore"
    ),
    r"dovecot_sasl\.[^.]+\.sasl_oidc_auth\.validation": (
        "with auto, a token that was found to be invalid is not presented to the introspection endpoint"
    ),
    r"dovecot_sasl\.[^.]+\.sasl_oidc_auth\.account_claim": (
        "a token without this claim is refused; the name that the client sent is not used instead"
    ),
}
_PATTERNS = [(re.compile(pattern), text) for pattern, text in _DIFFERENCES.items()]


def differences(written: Node) -> list[Problem]:
    """What is different, for each key of the file as it was written. Keys inherited from `defaults` are listed once."""
    return sorted({problem for node in _nodes(written) for problem in _of(node)})


def _of(node: Node) -> Iterator[Problem]:
    path = dotted(node.path)
    for pattern, text in _PATTERNS:
        if pattern.fullmatch(path):
            yield node.key_problem(text)
    if (schema.at(node.path) or {}).get("ignored"):
        yield node.key_problem("has no effect on this kind of entry")


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for _, child in node.children():
        yield from _nodes(child)
