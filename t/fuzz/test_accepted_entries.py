"""An entry that `check` accepts is one that a worker can use: nothing about it is found out after the start."""

from __future__ import annotations

import ssl
from typing import Any
from unittest.mock import Mock

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import load_text
from pfxhttpd.config.settings import DOVECOT_SASL, POLICY_SERVICE, SECTIONS, SOCKET_MAP, Settings
from pfxhttpd.io.transport.adapter import Transport
from pfxhttpd.io.transport.session import DirectSession
from pfxhttpd.rules import login, template, verdict
from pfxhttpd.service.backend import Backend

QUESTIONS = {SOCKET_MAP: "a key", POLICY_SERVICE: {"sender": "a"}, DOVECOT_SASL: "a user"}
PLACEHOLDERS = ["{{ .Key }}", "{{ .Name }}", "{{ .Attr.sender }}", "{{ .Username }}", "{{- .Key -}}", "{{", "}}"]

hosts = st.one_of(
    st.sampled_from(["h", "h:0", "h:99999", "[::1]:80", "[v1.x]", "[1.2.3.4]", "[::1%25lo]", "1.2.3.4.5", "ü", "xn--a", "a_b", "h:"]),
    st.text("h1.:[]-v_%@x", min_size=1, max_size=8),
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=10), st.lists(st.sampled_from(['"', "{", "}", "<a>", "=", "&", "ü", "x", "?", *PLACEHOLDERS]), max_size=6).map("".join)
)  # fmt: skip
entries = st.fixed_dictionaries(
    {"target": st.builds("http://{}/{}".format, hosts, texts), "value_field": st.just("x")},
    optional={
        "payload": texts,
        "method": st.sampled_from(["GET", "get", "POST", "PUT", "HEAD", "FOO"]),
        "custom_headers": st.lists(st.builds("{}: {}".format, st.sampled_from(["X", "Host", "Content-Type", "ü"]), texts)),
        "http_auth_basic": st.builds("{}:{}".format, texts, texts),
    },
)  # fmt: skip


def accepted(kind: str, entry: dict[str, Any]) -> Settings | None:
    listener = {"kind": kind, "name": "e", "type": "tcp", "address": "127.0.0.1", "port": 1}
    text = yaml.safe_dump({"server": {"listen": [listener]}, SECTIONS[kind]: {"e": entry}}, allow_unicode=True)
    try:
        return load_text(text, "x.yml", "yaml", {}, (template.check, verdict.check, login.check)).settings
    except ConfigError:
        return None


@given(st.sampled_from(sorted(SECTIONS)), entries)
@example(DOVECOT_SASL, {"target": "http://h/", "payload": "{{ .Username }}"})
@example(SOCKET_MAP, {"target": "http://[v1.x]/", "value_field": "x"})
@example(SOCKET_MAP, {"target": "http://h/", "value_field": "x"})
def test_a_worker_can_use_what_check_accepts(kind: str, entry: dict[str, Any]) -> None:
    settings = accepted(kind, entry)
    if settings is None:
        return
    session = DirectSession(Transport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
    backend = Backend(settings.entries[kind]["e"], settings.server, session, Mock(), Mock(), Mock())
    backend._payload.render(QUESTIONS[kind])
    if backend._target.static is None:
        backend._request.url = backend._target.render(QUESTIONS[kind]).decode()
        backend._request.render()


def test_there_are_entries_that_check_accepts() -> None:
    for kind in SECTIONS:
        assert accepted(kind, {"target": "http://h/", "value_field": "x", "payload": "", "custom_headers": ["X: y"]})
