"""Hosts and URLs: what may be asked, and what may be bound."""

from __future__ import annotations

import pytest

from pfxhttpd.config.values import host_error, proxy_error, target_error, url_error


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h/",
        "HTTPS://h:443/x?y=z",
        "http://127.0.0.1:9443/api",
        "http://[::1]:80/",
        "http://a_b.example.com./",
        "http://h/{{ .Key }}?x={{.Name}}&y={{- .Attr.sender -}}",
        "http://h?k={{ .Key }}",
        "http://h:/",
        "http://xn--bcher-kva.example/",
        "http://h/a%20b",
        "http://h/@x",
        "http://1a/",
    ],
)
def test_a_target(url: str) -> None:
    assert target_error(url) is None


@pytest.mark.parametrize(
    "url, fault",
    [
        ("h/path", "begins with http"),
        ("", "begins with http"),
        ("ftp://h/", "begins with http"),
        ("http:/h/", "begins with http"),
        ("unix:///x", "begins with http"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://:80/", "no host"),
        ("http://?x", "no host"),
        ("http://h/ x", "printable ASCII"),
        ("http://h/\n", "printable ASCII"),
        ("http://h/\u00fc", "printable ASCII"),
        ("http://h\t/", "printable ASCII"),
        ("http://h:65536/", "host or port"),
        ("http://h:x/", "host or port"),
        ("http://h:-1/", "host or port"),
        ("http://h:0/", "from 1 to 65535"),
        ("http://[::1/", "host or port"),
        ("http://[fe80]/", "host or port|neither"),
        ("http://u:p@h/", "must not hold a user"),
        ("http://u@h/", "must not hold a user"),
        ("http://h/#f", "#fragment"),
        ("http://h/#", "#fragment"),
        ("http://a..b/", "neither"),
        ("http://-a/", "neither"),
        ("http://1.2.3/", "neither"),
        ("http://256.1.1.1/", "neither"),
        ("http://a%20b/", "neither"),
        ("http://a,b/", "neither"),
        ("http://" + "a" * 64 + "/", "neither"),
        ("http://{{ .Key }}/", "placeholder cannot stand"),
        ("http://h.{{ .Key }}:80/", "placeholder cannot stand"),
        ("http://h{{ .Key }}", "placeholder cannot stand"),
    ],
)
def test_no_target(url: str, fault: str) -> None:
    assert target_error(url) and any(part in target_error(url) for part in fault.split("|"))


def test_no_fault_repeats_a_password() -> None:
    for url in (
        "ftp://u:geheim@h/",
        "http://u:geheim@h/",
        "http://u:geheim@/",
        "http://u:ge heim@h/",
        "u:geheim@h",
        "http://u:geheim@h:x/",
    ):
        for fault in (target_error(url), proxy_error(url), url_error(url)):
            assert "heim" not in (fault or "")


@pytest.mark.parametrize(
    "url, fault",
    [
        ("http://p:3128", None),
        ("https://u:p@p:3128/", None),
        ("http://[::1]:1", None),
        ("socks5://p:1", "begins with"),
        ("p:3128", "begins with"),
        ("http://p/x", "ends after the port"),
        ("http://p/?x", "ends after the port"),
        ("http://u:p@/", "no host"),
    ],
)
def test_a_proxy(url: str, fault: str | None) -> None:
    assert proxy_error(url) is None if fault is None else fault in (proxy_error(url) or "")


def test_another_url_has_no_placeholders_to_be_filled_in() -> None:
    assert url_error("https://p/.well-known/openid-configuration") is None
    assert url_error("https://p/{{ .Key }}") is not None


@pytest.mark.parametrize(
    "host, good",
    [
        ("localhost", True),
        ("a.b.c.", True),
        ("0.0.0.0", True),
        ("::", True),
        ("[::]", True),
        ("[::1]", True),
        ("fe80::1%eth0", True),
        ("a" * 63, True),
        ("[127.0.0.1]", False),
        ("1.2.3", False),
        ("12345", False),
        ("a b", False),
        ("", False),
        ("*", False),
        ("a/b", False),
        ("[::", False),
        ("[::1", False),
        ("::1]", False),
        ("b\u00fccher.de", False),
        (".".join(["a" * 63] * 4), False),
    ],
)
def test_hosts(host: str, good: bool) -> None:
    assert (host_error(host) is None) == good
