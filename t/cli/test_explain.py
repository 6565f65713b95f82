"""`query --explain` with a real backend: what it shows, what it hides, and that the reply is a worker's."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from kit import ports
from kit.backend import Answer, ThreadBackend

from pfxhttpd.__main__ import parser, run

CONFIGURATION = """\
server:
  listen: [{{kind: socket_map, address: 127.0.0.1, port: {port}}}]
  response_cache: {{enabled: true}}
  logging: {{syslog: mail}}
  http_client: {{proxy: ''}}
socket_maps:
  defaults: {{target: "{url}map", value_field: data.result, http_auth_basic: 'api:topsecret'}}
  found: {{http_request_compression: true}}
  typo: {{value_field: data.value}}
  guarded:
    target: "{url}guarded"
    backend_oidc_auth: {{enabled: true, configuration_uri: "{url}idp", client_id: api, client_secret: cl1ent-s3cret}}
  down: {{target: "http://127.0.0.1:{closed}/?api_key=k3yk3yk3y"}}
policy_services:
  rules: {{target: "{url}policy", value_field: action}}
dovecot_sasl:
  login:
    target: "{url}login"
    sasl_oidc_auth: {{enabled: true, configuration_uri: "{url}idp", client_id: mail, client_secret: cl1ent-s3cret}}
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[ThreadBackend]:
    with ThreadBackend() as backend:
        backend.answer("/map", Answer(json={"data": {"result": "some value"}, "sent": "Basic YXBpOnRvcHNlY3JldA=="}))
        backend.answer("/policy", Answer(json={"action": "REJECT no"}))
        backend.answer("/login", Answer(403, headers={"Auth-Status": "bad password wonderland"}))
        idp = backend.url("/idp").removesuffix("/.well-known/openid-configuration")
        backend.answer(
            "/idp",
            Answer(
                json={
                    "issuer": idp,
                    "token_endpoint": backend.url("/token"),
                    "introspection_endpoint": backend.url("/active"),
                }
            ),
        )
        backend.answer("/active", Answer(json={"active": False}))
        backend.answer(
            "/token", Answer(json={"access_token": "opaque-t0ken", "token_type": "Bearer", "expires_in": 60})
        )
        backend.answer("/guarded", Answer(json={"data": {"result": "x"}, "sent": "opaque-t0ken"}))
        yield backend


@pytest.fixture(scope="module")
def file(backend: ThreadBackend, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("explain") / "pfxhttp.yml"
    port, closed = ports.free(), ports.free()
    path.write_text(CONFIGURATION.format(url=backend.url(), port=port, closed=closed))
    return str(path)


def explain(file: str, *arguments: str) -> int:
    return run(parser().parse_args(["--config", file, "query", "--explain", *arguments]), {})


def test_a_value(file: str, backend: ThreadBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.forget()
    assert explain(file, "found", "some key") == 0
    out = capsys.readouterr().out
    assert "It does not ask a running server." in out
    assert "    POST /map HTTP/1.1\n    Host: " in out
    assert "    Authorization: <redacted>\n" in out and "topsecret" not in out and "YXBpOnRvcHNlY3JldA" not in out
    assert '    {"key": "some key"}\nResponse:\n    200 OK\n' in out
    assert '\n    {"data": {"result": "some value"}, ' in out
    assert "\nTime: resolve " in out and ", connect " in out and ", response " in out
    assert out.endswith("\nRule: value_field: data.result holds the value\nReply:\nOK some value\n")
    assert backend.requests("/map")[0].header("Content-Encoding") == "gzip"


def test_a_value_field_that_is_wrong(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(file, "typo", "key") == 1
    out = capsys.readouterr().out
    assert "the response has no data.value, so there is no value; it has the fields data.result, sent\n" in out
    assert out.endswith("Reply:\nNOTFOUND\n")


def test_a_backend_that_is_down(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(file, "down", "key") == 75
    out = capsys.readouterr().out
    assert "\nNo response: cannot connect to 127.0.0.1 port " in out and "k3yk3yk3y" not in out
    assert "Connection refused; this is a failure of the backend, so the reply is temporary\n" in out
    assert '\nLog: level=ERROR msg="Backend failed" ' in out
    assert "Reply:\nTEMP connection to the backend failed" in out


def test_a_policy_request(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(file, "--policy", "rules", "sender=a@example.com") == 69
    out = capsys.readouterr().out
    assert '    {"request":"smtpd_access_policy","sender":"a@example.com"}\n' in out
    assert out.endswith("Rule: value_field: action holds the value\nReply:\naction=REJECT no\n")


def test_a_login(file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("wonderland\n"))
    assert explain(file, "--sasl", "login", "alice") == 1
    out = capsys.readouterr().out
    assert '    {"username": "alice", "password": "<redacted>", "protocol": "smtp"' in out and "wonderland" not in out
    assert "    Auth-Status: bad password <redacted>\n" in out
    assert "Rule: the header Auth-Status refuses the login, with the status code 403\n" in out
    assert out.endswith("Reply:\nFAIL user=alice reason=bad password <redacted>\n")


def test_the_requests_to_a_provider(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(file, "guarded", "key") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if " HTTP/1.1" in line] == [
        "    GET /idp HTTP/1.1",
        "    POST /token HTTP/1.1",
        "    POST /guarded HTTP/1.1",
    ]
    assert "cl1ent-s3cret" not in out and "t0ken" not in out and "Bearer" in out
    assert out.endswith("Reply:\nOK x\n")


def test_a_login_with_a_token(file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("users-t0ken\n"))
    assert explain(file, "--sasl", "login", "--mechanism", "xoauth2", "alice") == 1
    out = capsys.readouterr().out
    assert "    POST /active HTTP/1.1\n" in out and '    {"active": false}\n' in out
    assert "users-t0ken" not in out and "cl1ent-s3cret" not in out
    assert "\nRule: sasl_oidc_auth: the token decides, without a request to the backend\n" in out
    assert 'msg="Authentication failed"' in out and "reason=" in out
    assert "Reply:\nFAIL user=alice" in out


def test_what_it_refuses(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(file, "foud", "key") == 78
    assert capsys.readouterr().err == f"pfxhttpd: {file}: no entry foud under socket_maps (did you mean found?)\n"
    assert explain(file, "--address", "inet:127.0.0.1:1", "found", "key") == 64
    assert "--explain asks no server" in capsys.readouterr().err
