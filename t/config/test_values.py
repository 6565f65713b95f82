"""Durations, host names and URLs: which are accepted, and why others are not."""

from __future__ import annotations

import pytest

from pfxhttpd.config.values import host_error, proxy_error, seconds, target_error, url_error


@pytest.mark.parametrize(
    "text, expected",
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("168h", 604800),
        ("1h2m3s4ms", 3723.004),
        ("1.5h", 5400),
        ("250us", 0.00025),
        ("250\u00b5s", 0.00025),
        ("100ns", 1e-7),
        (" 5s ", 5),
        ("0", 0),
        ("0s", 0),
        ("90", 90),
        ("1.5", 1.5),
        (90, 90),
        (0.25, 0.25),
        (0, 0),
    ],
)
def test_a_duration(text: str | float, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "5 s",
        "5d",
        "1w",
        "-5s",
        "+5s",
        -1,
        "5s ago",
        "1h 30m",
        "5S",
        "1..5s",
        ".5s",
        "1e3",
        "\u0665s",
        "5s\n5s",
        float("inf"),
        float("nan"),
        10**400,
        "9" * 400,
        "9" * 400 + "h",
        "0x10",
    ],
)
def test_what_is_no_duration(text: str | float) -> None:
    with pytest.raises(ValueError, match='expected a duration such as "500ms", "30s" or "1h30m"'):
        seconds(text)


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
    "url, error",
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
        ("http://[v1.x]/", "host or port|neither"),
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
def test_what_is_no_target(url: str, error: str) -> None:
    assert target_error(url) and any(part in target_error(url) for part in error.split("|"))


def test_no_error_repeats_a_password() -> None:
    for url in (
        "ftp://u:geheim@h/",
        "http://u:geheim@h/",
        "http://u:geheim@/",
        "http://u:ge heim@h/",
        "u:geheim@h",
        "http://u:geheim@h:x/",
    ):
        for error in (target_error(url), proxy_error(url), url_error(url)):
            assert "heim" not in (error or "")


@pytest.mark.parametrize(
    "url, error",
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
def test_a_proxy(url: str, error: str | None) -> None:
    assert proxy_error(url) is None if error is None else error in (proxy_error(url) or "")


def test_only_a_target_has_placeholders() -> None:
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
