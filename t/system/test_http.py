"""The HTTP that backends see: methods, headers, compression, kept connections, proxies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.backend import Answer, Backend, Series
from kit.configuration import policy, socket_map
from kit.proxy import Proxy
from kit.site import Site

from pfxhttpd import __version__

pytestmark = pytest.mark.usefixtures("same_workers")


@pytest.fixture(scope="module")
def site(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker, so that which connection serves which request is no matter of chance."""
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text("machine 127.0.0.1 login netrc password secret\ndefault login netrc password secret\n")
    (home / ".netrc").chmod(0o600)
    backend.answer("/map", json={"result": "x"})
    backend.answer("/gzip", json={"result": "x" * 5000}, gzip=True)
    plain = backend.url("/map")
    maps = {
        "plain": socket_map(plain),
        "pressed": socket_map(plain, http_request_compression=True),
        "unpressed": socket_map(backend.url("/gzip"), http_response_compression=True),
        "both": socket_map(backend.url("/gzip"), http_request_compression=True, http_response_compression=True),
        "headed": socket_map(
            plain,
            custom_headers=["X-One: 1", "X-Two: a: b", "User-Agent: mine/1", "Content-Type: application/x-test+json"],
        ),
        "known": socket_map(plain, http_auth_basic="user:pass:wörd"),
        "get": socket_map(backend.url("/get") + "?key={{ .Key }}&name={{ .Name }}", method="GET"),
        "path": socket_map(backend.url("/by/") + "{{ .Key }}", method="GET"),
        "series": socket_map(backend.url("/series")),
        "moved": socket_map(backend.url("/moved")),
    }
    environment = {"HOME": str(home), "NETRC": str(home / ".netrc")}
    with Site(maps, {"check": policy(plain)}, environment, workers=1) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_seen_yet(backend: Backend) -> None:
    backend.forget()


def test_a_plain_request(site: Site, backend: Backend):
    assert site.ask("plain", "k") == "OK x"
    (request,) = backend.requests()
    assert (request.method, request.target, request.version) == ("POST", "/map", "HTTP/1.1")
    assert request.header("host") == f"127.0.0.1:{backend.port}"
    assert request.header("content-type") == "application/json"
    assert request.header("user-agent") == f"PostfixToHTTP/{__version__}"
    assert request.header("content-length") == str(len(request.body))
    assert "gzip" not in (request.header("accept-encoding") or "")
    assert request.header("authorization") is None, "~/.netrc was read"


def test_custom_headers(site: Site, backend: Backend):
    site.ask("headed", "k")
    (request,) = backend.requests()
    assert [request.header(name) for name in ("x-one", "x-two", "user-agent", "content-type")] == [
        "1", "a: b", "mine/1", "application/x-test+json",
    ]  # fmt: skip


def test_basic_authorization(site: Site, backend: Backend):
    site.ask("known", "k")
    (request,) = backend.requests()
    assert request.header("authorization") == "Basic dXNlcjpwYXNzOnfDtnJk"


def test_request_compression(site: Site, backend: Backend):
    assert site.ask("pressed", "ü" * 100) == "OK x"
    (request,) = backend.requests()
    assert request.header("content-encoding") == "gzip"
    assert request.header("content-length") == str(len(request.body))
    assert request.json() == {"key": "ü" * 100}


def test_response_compression(site: Site, backend: Backend):
    for name in ("unpressed", "both"):
        assert site.ask(name, "k") == "OK " + "x" * 5000
    assert [request.header("accept-encoding") for request in backend.requests()] == ["gzip", "gzip"]
    assert [request.header("content-encoding") for request in backend.requests()] == [None, "gzip"]


@pytest.mark.parametrize(
    "key", ["a b", "a/b?c=d&e=f#g", "100%", "jörg@example.test", "../../etc", "\r\nX-Evil: 1", "+"]
)
def test_get_percent_encodes(site: Site, backend: Backend, key: str):
    backend.answer("/get", json={"result": "<{key}> of {name}"}, fill=True)
    reply = site.ask("get", key)
    assert reply == "OK " + f"<{key}> of get".replace("\r", " ").replace("\n", " ")
    (request,) = backend.requests()
    assert (request.method, request.body, request.query["key"]) == ("GET", b"", key)
    assert request.header("x-evil") is None and request.header("content-type") is None


def test_get_with_the_key_in_the_path(site: Site, backend: Backend):
    backend.answer("/by/a%20b%2F%C3%BC%3F%23", json={"result": "x"})
    assert site.ask("path", "a b/ü?#") == "OK x"


def test_redirects_are_not_followed(site: Site, backend: Backend):
    for status in (301, 302, 303, 307, 308):
        backend.answer("/moved", status=status, headers={"Location": backend.url("/map")})
        assert site.ask("moved", "k").startswith(f"PERM unexpected status code {status}")
    assert backend.count("/map") == 0


def test_requests_share_a_kept_connection(site: Site, backend: Backend):
    site.ask("plain", "k")
    before = backend.connections()
    with site.client() as client:
        for _ in range(20):
            assert client.ask("plain", "k") == "OK x"
    site.ask("pressed", "k")
    site.ask("known", "k")
    site.act("check")
    assert backend.connections() == before
    assert len({request.connection for request in backend.requests()}) == 1


def test_a_connection_that_the_backend_gives_up_is_replaced(site: Site, backend: Backend):
    for then in ("announce", "close"):
        backend.answer("/series", json={"result": "x"}, then=then)
        for _ in range(5):
            assert site.ask("series", "k") == "OK x"
    assert backend.count("/series") == 10


def test_a_connection_closed_while_idle_is_retried(site: Site, backend: Backend):
    for _ in range(5):
        assert site.ask("plain", "k") == "OK x"
        backend.close_idle()
    assert site.ask("plain", "k") == "OK x"
    assert backend.count("/map") == 6


@pytest.mark.parametrize("drop", [Answer(drop=True), Answer(drop=True, then="reset")], ids=["close", "reset"])
def test_a_kept_connection_that_dies_under_a_request_is_retried_once(site: Site, backend: Backend, drop: Answer):
    good = Answer(json={"result": "x"})
    backend.answer("/series", Series((good, drop, good)))
    assert site.ask("series", "k") == "OK x"
    assert site.ask("series", "k") == "OK x"
    assert backend.count("/series") == 3
    first, second, third = backend.requests("/series")
    assert first.connection == second.connection != third.connection
    assert second.body == third.body

    backend.answer("/series", Series((good, drop, drop, good)))
    backend.forget()
    assert site.ask("series", "k") == "OK x"
    assert site.ask("series", "k").startswith("TEMP ")
    assert backend.count("/series") == 3


def test_a_new_connection_that_dies_is_not_retried(site: Site, backend: Backend):
    site.ask("plain", "k")
    backend.close_idle()
    site.ask("plain", "k")
    backend.answer("/series", json={"result": "x"}, then="announce")
    site.ask("series", "k")
    backend.forget()
    backend.answer("/series", Series((Answer(drop=True), Answer(json={"result": "x"}))))
    assert site.ask("series", "k").startswith("TEMP ")
    assert backend.count("/series") == 1


def test_a_death_after_the_first_byte_is_not_retried(site: Site, backend: Backend):
    good = Answer(json={"result": "x"})
    backend.answer("/series", Series((good, Answer(raw=b"H", then="close"), good)))
    assert site.ask("series", "k") == "OK x"
    assert site.ask("series", "k").startswith("TEMP ")
    assert backend.count("/series") == 2


def test_connections_per_host_are_bounded_across_workers():
    with (
        Backend() as own,
        Site({"held": socket_map(own.url("/held"))}, workers=4, http_client={"max_connections_per_host": 2}) as site,
        contextlib.ExitStack() as stack,
    ):
        own.answer("/held", json={"result": "x"}, hold="bound")
        clients = [stack.enter_context(site.client()) for _ in range(4)]
        for client in clients:
            client.send("held", "k")
        own.wait_requests(2)
        with pytest.raises(TimeoutError):
            own.wait_requests(3, timeout=0.5)
        assert own.connections() == 2
        own.release("bound")
        assert [client.reply() for client in clients] == ["OK x"] * 4
        assert own.open_connections() <= 2


def test_idle_connections_are_closed_in_time(backend: Backend):
    """The pause is a second at least, so the test looks from the backend's side: it sees a connection end."""
    backend.answer("/map", json={"result": "x"})
    with Backend() as own:
        own.answer("/map", json={"result": "x"})
        with Site(
            {"plain": socket_map(own.url("/map"))}, workers=1, http_client={"idle_connection_timeout": "300ms"}
        ) as site:
            with site.client() as client:
                assert client.ask("plain", "k") == "OK x"
                assert client.quiet(0.5)
                assert client.ask("plain", "k") == "OK x"
            first, second = own.requests()
            assert first.connection != second.connection


def test_a_proxy_from_the_configuration(backend: Backend):
    with Proxy(backend.port) as proxy:
        maps = {"far": socket_map("http://api.example.test/map")}
        with Site(maps, http_client={"proxy": proxy.url}) as site:
            assert site.ask("far", "k") == "OK x"
        (seen,) = proxy.requests()
        assert (seen.method, seen.target, seen.header("host")) == (
            "POST", "http://api.example.test/map", "api.example.test",
        )  # fmt: skip
        assert backend.requests()[-1].json() == {"key": "k"}


def test_a_proxy_from_the_environment(backend: Backend):
    with Proxy(backend.port) as proxy:
        maps = {"far": socket_map("http://api.example.test/map"), "near": socket_map(backend.url("/map"))}
        environment = {"http_proxy": proxy.url, "no_proxy": "localhost,127.0.0.1"}
        with Site(maps, environment=environment) as site:
            assert site.ask("far", "k") == "OK x"
            assert site.ask("near", "k") == "OK x"
        assert [seen.target for seen in proxy.requests()] == ["http://api.example.test/map"]


def test_a_proxy_that_refuses_or_is_gone(backend: Backend):
    with Proxy(backend.port, status=503) as proxy:
        with Site({"far": socket_map("http://api.example.test/map")}, http_client={"proxy": proxy.url}) as site:
            assert site.ask("far", "k").startswith("TEMP ")
    with Site({"far": socket_map("http://api.example.test/map")}, http_client={"proxy": proxy.url}) as site:
        assert site.ask("far", "k").startswith("TEMP ")


def test_version_is_a_version():
    text = (Path(__file__).resolve().parents[2] / "pfxhttpd" / "__init__.py").read_text()
    assert f'"{__version__}"' in text
