"""What the backend of a login is asked, and what its answers say of the account, at the real daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit.answer import Answer, Keyed, Series
from kit.backend import Backend
from kit.clients import Closed, Sasl
from kit.logins import ACCOUNT, ANSWERS, RIGHT, WRONG, Logins, login

pytestmark = pytest.mark.usefixtures("same_workers")

NOT_NOW = "temp\tcode=temp_fail\treason=temporary authentication failure"


def raw(*headers: bytes, status: bytes = b"200 OK") -> Answer:
    return Answer(raw=b"\r\n".join((b"HTTP/1.1 " + status, *headers, b"Content-Length: 0", b"", b"")))


def named(account: str | bytes) -> Answer:
    return raw(b"Auth-User: " + (account if isinstance(account, bytes) else account.encode()))


ACCOUNTS: dict[str, tuple[Answer, str]] = {
    "none": (Answer(200), "user=none"),
    "plain": (named("ann@example.test"), "user=ann@example.test"),
    "blanks around": (named("  ann \t"), "user=ann"),
    "blank inside": (named("ann smith"), "user=ann smith"),
    "utf-8": (named("jürgen@exämple.test"), "user=jürgen@exämple.test"),
    "utf-8 that ends like a blank": (named("voilà"), "user=voilà"),
    "latin-1": (named("jürgen".encode("latin-1")), "user=jürgen"),
    "a thousand": (named("x" * 1024), "user=" + "x" * 1024),
    "comma": (named("one, two"), "user=one, two"),
    "forging": (named("ann user=admin temp"), "user=ann user=admin temp"),
    "lower-case name": (raw(b"auth-user: ann"), "user=ann"),
    "among others": (raw(b"X-Auth-User: eve", b"Auth-User: ann", b"Auth-Userx: eve", b"Auth-Status: OK"), "user=ann"),
    "trailer": (
        Answer(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Auth-User\r\n\r\n0\r\nAuth-User: eve\r\n\r\n"
        ),
        "user=trailer",
    ),
    "interim": (
        Answer(raw=b"HTTP/1.1 103 Early Hints\r\nAuth-User: eve\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        "user=interim",
    ),
    "empty": (named(""), "reason=empty account"),
    "blank": (named("   "), "reason=empty account"),
    "no-break space": (named("\u00a0"), "reason=empty account"),
    "too long": (named("x" * 1025), "reason=account too long"),
    "tab": (named("ann\tuser=admin"), "reason=control character in account"),
    "right to left": (named("ann\u202enimda"), "user=ann\u202enimda"),
    "line separator": (named("ann\u2028OK"), "reason=control character in account"),
    "next line": (named("ann\u0085OK"), "reason=control character in account"),
    "escaped by somebody": (named("ann\x01tuser=admin"), NOT_NOW),
    "null": (named("ann\0"), NOT_NOW),
    "carriage return": (named("ann\rAuth-User: eve"), NOT_NOW),
    "twice": (raw(b"Auth-User: ann", b"Auth-User: eve"), NOT_NOW),
    "twice the same": (raw(b"Auth-User: ann", b"AUTH-USER: ann"), NOT_NOW),
    "folded": (raw(b"Auth-User: ann", b" eve"), NOT_NOW),
    "two reasons": (raw(b"Auth-Status: no", b"Auth-Status: OK", status=b"403 Forbidden"), NOT_NOW),
}
"""User -> the backend's answer, and what the client gets for it behind the id."""

REASONS: dict[str, tuple[Answer, str]] = {
    "reason": (Answer(403, {"Auth-Status": "Invalid login or password"}), "reason=Invalid login or password"),
    "other status": (Answer(400, {"Auth-Status": "no"}), "reason=no"),
    "redirect": (Answer(302, {"Location": "/yes"}), NOT_NOW),
    "not found": (Answer(404), NOT_NOW),
    "other success": (Answer(204, {"Auth-User": "ann"}), NOT_NOW),
    "other success with a reason": (Answer(204, {"Auth-Status": "no"}), "reason=no"),
    "long": (Answer(403, {"Auth-Status": "x" * 5000}), "reason=" + "x" * 197 + "..."),
    "tabbed": (Answer(403, {"Auth-Status": "no\tuser=admin\ttemp"}), "reason=no user=admin temp"),
    "foreign": (raw(b"Auth-Status: " + "Ungültig\u202e".encode(), status=b"403 Forbidden"), "reason=Ungültig"),
    "our own": (Answer(401, {"Auth-Status": "no", "Auth-User": "ann"}), NOT_NOW),
    "blank reason": (Answer(403, {"Auth-Status": "  "}), NOT_NOW),
    "overloaded": (Answer(429, {"Auth-Status": "no"}), NOT_NOW),
    "broken": (Answer(500, {"Auth-Status": "no"}), NOT_NOW),
    "rejecting": (Answer(400), "reason=authentication failed"),
    "rejecting with a reason": (Answer(400, {"Auth-Status": "no"}), "reason=no"),
    "rejecting overload": (Answer(429), "reason=authentication failed"),
}


@pytest.fixture(scope="module")
def site(backend: Backend) -> Iterator[Logins]:
    table = {user: answer for user, (answer, _) in {**ACCOUNTS, **REASONS}.items()}
    backend.answer("/odd", Keyed(table, Answer(500), "username"))
    backend.answer("/yes", Answer(200))
    backend.answer("/login", ANSWERS)
    backend.answer("/auth/full", Answer(200))
    backend.answer("/created", Series((Answer(201), Answer(202), Answer(200))))
    entries = {
        "odd": login(backend.url("/odd"), temporary_failure="fail"),
        "rejecting": login(backend.url("/odd"), temporary_failure="fail", reject_status=[400, 429]),
        "login": login(backend.url("/login"), temporary_failure="fail", default_local_port=587),
        "full": login(backend.url("/auth/{{ .Name }}"), http_auth_basic="us:sesame", custom_headers=["X-Tenant: one"],
                      payload='{"not": "used"}', value_field="not.used", http_request_compression=True),
        "created": login(backend.url("/created"), status_code=[201, 202]),
    }  # fmt: skip
    with Logins(entries, response_cache={"enabled": True, "ttl": "1h"}) as started:
        yield started


@pytest.fixture
def client(site: Logins) -> Iterator[Sasl]:
    with site.client("login") as connected:
        yield connected


@pytest.mark.parametrize("user", [*ACCOUNTS, *REASONS])
def test_who_is_let_in_as_whom(site: Logins, backend: Backend, user: str):
    backend.forget()
    expected = {**ACCOUNTS, **REASONS}[user][1]
    with site.client("rejecting" if user.startswith("rejecting") else "odd") as client:
        verb = "OK" if expected.startswith("user=") else f"FAIL\t1\tuser={user}"
        assert client.plain(user, "plum-Zt9") == (f"OK\t1\t{expected}" if verb == "OK" else f"{verb}\t{expected}")
    assert backend.count("/yes") == 0, "redirects are not followed"


def test_everything_that_is_known_is_told(site: Logins, backend: Backend):
    backend.forget()
    told = ["nologin", "lip=192.0.2.1", "rip=2001:db8::1", "rport=4711", "lport=465", "secured=tls", "local_name=mx",
            "session=abc", "ssl_protocol=TLSv1.3", "ssl_cipher=TLS_AES_256_GCM_SHA384", "client_id=x", "client_hostname=h",
            "forward_x=y", "ssl_cipher_bits=256"]  # fmt: skip
    with site.client("full") as client:
        assert client.plain("ann", "p\u00e4ss w\u00f6rd", *told) == "OK\t1\tuser=ann"
    (request,) = backend.requests()
    assert (request.method, request.path) == ("POST", "/auth/full")
    assert request.json() == {
        "username": "ann", "password": "p\u00e4ss w\u00f6rd", "protocol": "smtp", "method": "PLAIN",
        "client_ip": "2001:db8::1", "client_port": "4711", "client_hostname": "h", "local_ip": "192.0.2.1",
        "local_port": "465", "ssl": "on", "ssl_protocol": "TLSv1.3", "ssl_cipher": "TLS_AES_256_GCM_SHA384", "client_id": "x",
    }  # fmt: skip
    headers = {name: request.header(name) for name in ("authorization", "x-tenant", "content-type", "content-encoding")}
    assert headers == {"authorization": "Basic dXM6c2VzYW1l", "x-tenant": "one", "content-type": "application/json",
                       "content-encoding": "gzip"}  # fmt: skip


def test_the_port_that_stands_in(client: Sasl, backend: Backend):
    for given, told in (((), "587"), (("lport=",), "587"), (("lport=25",), "25")):
        backend.forget()
        client.plain("ann", RIGHT, *given)
        assert backend.requests()[0].json()["local_port"] == told


def test_the_status_that_means_yes(site: Logins):
    with site.client("created") as client:
        assert client.plain("ann", "x") == "OK\t1\tuser=ann"
        assert client.plain("ann", "x") == "OK\t2\tuser=ann"
        mark = site.log.position
        with pytest.raises(Closed):
            client.plain("ann", "x")
        site.log.wait_for('could not be decided.*reason="backend answered with status code 200', start=mark)


def test_no_answer_is_kept(client: Sasl, backend: Backend):
    """Each login asks, and an outage is one although the answer was known a moment ago and the cache is on."""
    backend.forget()
    for _ in range(3):
        assert client.plain("ann", RIGHT) == f"OK\t{client.last_id}\tuser={ACCOUNT}"
    assert backend.count() == 3
    backend.answer("/login", Answer(503))
    try:
        assert client.plain("ann", RIGHT) == f"FAIL\t{client.last_id}\tuser=ann\t{NOT_NOW}"
    finally:
        backend.answer("/login", ANSWERS)
    assert client.plain("ann", WRONG).startswith("FAIL")
    assert client.plain("ann", RIGHT).startswith("OK")


def test_a_failure_that_is_told_ends_nothing_else(client: Sasl):
    """`temporary_failure: fail`: the other exchanges on the connection go on."""
    assert client.auth("LOGIN", "ann") == "CONT\t1\tUGFzc3dvcmQ6"
    assert client.plain("ann", "503") == f"FAIL\t2\tuser=ann\t{NOT_NOW}"
    assert client.plain("ann", "silence") == f"FAIL\t3\tuser=ann\t{NOT_NOW}"
    assert client.cont(RIGHT, 1) == f"OK\t1\tuser={ACCOUNT}"


def test_a_kept_connection_that_has_died_is_no_outage(client: Sasl, backend: Backend):
    assert client.plain("ann", RIGHT).startswith("OK")
    backend.close_idle()
    assert client.plain("ann", RIGHT).startswith("OK")
