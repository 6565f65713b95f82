"""What is legal in a configuration but unwise: each yields a problem that stops no start."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

from pfxhttpd.config.defaults import FILE
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node
from pfxhttpd.config.secret_files import SecretFiles
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS, SOCKET_MAP, Entry, Settings

SASL_TIMEOUT, OTHER_TIMEOUT = 10.0, 100.0
"""Seconds after which Postfix gives up (xsasl_dovecot_server.c; socketmap_table(5), smtpd_policy_service_timeout)."""
NOT_FOUND = 404

_PLACEHOLDER = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_KEY = re.compile(r"\{\{-?\s*\.(Key|Attr)\b")
"""A placeholder by which two requests of an entry differ."""
_NO_PATH = re.compile(r"^[$/]|\[")
"""What a JSONPath (RFC 9535) or a JSON pointer (RFC 6901) has, and the name of a field rarely."""
_SECRET_KEYS = ("http_auth_basic", "client_secret", "prometheus_http_auth_basic", "otel_exporter_otlp_headers")


def warnings(settings: Settings, root: Node, files: SecretFiles) -> list[Problem]:
    """The warnings about a valid configuration. `root` is its tree with all defaults in it."""
    return sorted(
        {
            *_tls_warnings(root),
            *_listener_warnings(settings, root),
            *_observability_warnings(settings, root),
            *_readable_secrets(settings, root, files),
            *(problem for entry, node in _entries(settings, root) for problem in _entry_warnings(entry, node)),
            *_unreachable_entries(settings, root),
        }
    )


def _entries(settings: Settings, root: Node) -> Iterator[tuple[Entry, Node]]:
    for kind, section in SECTIONS.items():
        for name, entry in settings.entries[kind].items():
            node = root.get(section, name)
            if node is not None:
                yield entry, node


def _at(node: Node, key: str) -> Node:
    return node.get(key) or node.child(key, None)


def _tls_warnings(root: Node) -> Iterator[Problem]:
    tls = root.get("server", "tls")
    if tls is None:
        return
    if tls.scalar("enabled"):
        if tls.scalar("skip_verify"):
            yield _at(tls, "skip_verify").problem("no certificate is verified, so any server can pose as the backend")
        return
    for key in ("root_ca", "cert", "skip_verify"):
        if tls.scalar(key):
            yield _at(tls, key).problem("has no effect, because server.tls.enabled is not true")


def _listener_warnings(settings: Settings, root: Node) -> Iterator[Problem]:
    listen = root.get("server", "listen")
    for listener, node in zip(settings.server.listen, listen.value if listen else (), strict=False):
        if listener.mode >= 0 and listener.mode & stat.S_IWOTH:
            yield _at(node, "mode").problem("every user of this machine can connect to this socket")


def _observability_warnings(settings: Settings, root: Node) -> Iterator[Problem]:
    block, own = root.get("server", "observability"), settings.server.observability
    if block is None:
        return
    if own.otel_enabled and not own.otel_traces_enabled and not own.otel_metrics_enabled:
        yield _at(block, "otel_enabled").problem(
            "has no effect, because neither otel_traces_enabled nor otel_metrics_enabled is true"
        )
    for key in ("otel_traces_enabled", "otel_metrics_enabled"):
        if not own.otel_enabled and block.scalar(key):
            yield _at(block, key).problem("has no effect, because otel_enabled is not true")
    password = own.prometheus_http_auth_basic and not own.prometheus_tls.enabled
    if own.prometheus_enabled and password and not _is_loopback(own.prometheus_address):
        yield _at(block, "prometheus_tls").problem("the password for the metrics is sent without encryption (http:)")
    headers = own.otel_exporter_otlp_headers if own.sends_traces or own.sends_metrics else ()
    if headers and _is_plain_to_another_machine(own.otel_exporter_otlp_endpoint):
        yield _at(block, "otel_exporter_otlp_endpoint").problem(
            "the header fields are sent to another machine without encryption (http:)"
        )


def _readable_secrets(settings: Settings, root: Node, files: SecretFiles) -> Iterator[Problem]:
    """Secrets in files that every user of the machine can read."""
    holds = [node for node in _nodes(root) if node.path[-1:] and node.path[-1] in _SECRET_KEYS and node.value]
    own = [node for node in holds if node.location.file == settings.source]
    if own and _is_world_readable(settings.source):
        yield own[0].problem("this secret is in a file that every user of this machine can read (chmod o-r)")
    for node in _nodes(root):
        key = str(node.path[-1]) if node.path else ""
        if key.endswith(FILE) and node.value and _is_world_readable(files.path(node)):
            yield node.problem("every user of this machine can read that file (chmod o-r)")


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for _, child in node.children():
        yield from _nodes(child)


def _is_world_readable(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _entry_warnings(entry: Entry, node: Node) -> Iterator[Problem]:
    limit = SASL_TIMEOUT if entry.kind == DOVECOT_SASL else OTHER_TIMEOUT
    if entry.timeout >= limit if entry.kind == DOVECOT_SASL else entry.timeout > limit:
        yield _at(node, "timeout").problem(
            f"Postfix gives up after {limit:g} s, before a timeout of {entry.timeout:g} s"
        )
    if entry.kind != DOVECOT_SASL and NOT_FOUND in entry.status_codes and not entry.error_field:
        yield _at(node, "status_code").problem(
            "with 404 as an expected code and no error_field, a wrong URL looks as if nothing were found"
        )
    if entry.kind != DOVECOT_SASL:
        yield from _value_warnings(entry, node)
    credentials = any(name.lower() == "authorization" for name, _ in entry.headers) or entry.backend_oidc.enabled
    if (credentials or entry.kind == DOVECOT_SASL) and _is_plain_to_another_machine(entry.target):
        what = "passwords" if entry.kind == DOVECOT_SASL else "credentials"
        yield _at(node, "target").problem(f"{what} are sent to another machine without encryption (http:)")


def _value_warnings(entry: Entry, node: Node) -> Iterator[Problem]:
    """What makes every lookup find the same value, or none."""
    body = "" if entry.method == "GET" else entry.payload or "{{ .Key }}"
    if not _KEY.search(body + entry.target):
        yield _at(node, "payload" if entry.payload else "target").problem(
            "neither payload nor target has a placeholder such as {{ .Key }}, so all keys get the same answer"
        )
    if _NO_PATH.search(entry.value_field):
        yield _at(node, "value_field").problem(
            "this looks like a JSONPath or a JSON pointer, but a path is written as data.result or items.0.name"
        )


def _is_plain_to_another_machine(target: str) -> bool:
    parts = urlsplit(_PLACEHOLDER.sub("x", target))
    return parts.scheme.lower() == "http" and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _unreachable_entries(settings: Settings, root: Node) -> Iterator[Problem]:
    for entry, node in _entries(settings, root):
        listeners = [listener for listener in settings.server.listen if listener.kind == entry.kind]
        if entry.kind == SOCKET_MAP:
            if not listeners:
                yield node.key_problem("no listener of kind socket_map leads to this entry")
        elif all(listener.name != entry.name for listener in listeners):
            yield node.key_problem(f"no listener of kind {entry.kind} has this name, so nothing leads to this entry")
