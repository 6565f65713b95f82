"""`pfxhttpd config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pfxhttpd.__main__ import parser, run
from pfxhttpd.cli.config import as_yaml
from pfxhttpd.config.load import load

TEXT = """\
server:
  listen: [{kind: socket_map, name: demo, port: 23450}]
  http_client: {proxy: "http://user:geheim@proxy:3128/"}
socket_maps:
  defaults:
    http_auth_basic: "user:geheim"
    custom_headers:
      - "X-Pfx-Name: shown"
      - "X-Api-Key: geheim"
      - "Cookie: geheim"
      - "x-my-TOKEN:geheim"
      - "Proxy-Authorization: geheim"
  demo:
    target: "http://h/?api_key=geheim&key={{ .Key }}&map=shown&token=x{{ .Key }}geheim"
    value_field: v
    payload: |
      {"key": "{{ .Key }}", "password": "geheim", "token" : "{{ .Key }}", "secret": 12345,
       "client_secret": "ge\\"geheim", "other": "shown"}
  form:
    target: "http://h/"
    value_field: v
    payload: "user={{ .Key }}&password=geheim&x=shown"
    custom_headers: ["Content-Type: application/x-www-form-urlencoded", "Authorization: Bearer geheim"]
  oidc:
    target: "http://h/"
    value_field: v
    http_auth_basic_file: login
    backend_oidc_auth: {enabled: true, configuration_uri: "https://p/?sig=geheim", client_id: shown, client_secret: geheim, scopes: [shown]}
dovecot_sasl:
  login:
    target: "http://h/"
    sasl_oidc_auth:
      enabled: true
      providers:
        - {configuration_uri: "https://p/?sig=geheim", client_id: shown, client_secret: geheim}
        - {configuration_uri: "https://q/", validation: userinfo, tokeninfo_url: "https://q/?key=geheim"}
"""


def printed(
    path: Path, capsys: pytest.CaptureFixture[str], environ: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    options = parser().parse_args(["--config", str(path), "config"])
    return (run(options, environ or {}), *capsys.readouterr())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "login").write_text("user:geheim\n")
    (tmp_path / "pfxhttp.yml").write_text(TEXT)
    return tmp_path / "pfxhttp.yml"


def test_no_secret_is_printed_and_everything_else_is(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(path, capsys, {"PFXHTTP_SERVER_LOGGING_LEVEL": "debug"})
    assert (code, err) == (0, "")
    assert "geheim" not in out and "12345" not in out and "dXNlcjpn" not in out
    document = yaml.safe_load(out)
    server, maps = document["server"], document["socket_maps"]
    assert server["logging"]["level"] == "debug"
    assert server["http_client"]["proxy"] == "http://<redacted>@proxy:3128/"
    assert server["listen"][0]["port"] == 23450
    assert "defaults" not in maps
    assert maps["demo"]["target"] == "http://h/?api_key=<redacted>&key={{ .Key }}&map=shown&token=<redacted>"
    assert maps["demo"]["http_auth_basic"] == "<redacted>"
    assert maps["demo"]["custom_headers"] == [
        "X-Pfx-Name: shown",
        "X-Api-Key: <redacted>",
        "Cookie: <redacted>",
        "x-my-TOKEN: <redacted>",
        "Proxy-Authorization: <redacted>",
    ]
    assert maps["demo"]["payload"] == (
        '{"key": "{{ .Key }}", "password": "<redacted>", "token" : "{{ .Key }}", "secret": <redacted>,\n'
        ' "client_secret": "<redacted>", "other": "shown"}\n'
    )
    assert maps["form"]["payload"] == "user={{ .Key }}&password=<redacted>&x=shown"
    assert maps["form"]["custom_headers"][-1] == "Authorization: <redacted>"
    assert maps["form"]["http_auth_basic"] == "", "the entry's own header rules the default out"
    assert maps["oidc"]["http_auth_basic_file"] == "login"
    oidc = maps["oidc"]["backend_oidc_auth"]
    assert (oidc["client_secret"], oidc["client_id"], oidc["configuration_uri"]) == (
        "<redacted>",
        "shown",
        "https://p/?sig=<redacted>",
    )
    assert oidc["scopes"] == ["shown"]
    first, second = document["dovecot_sasl"]["login"]["sasl_oidc_auth"]["providers"]
    assert (first["client_secret"], first["configuration_uri"]) == ("<redacted>", "https://p/?sig=<redacted>")
    assert second["tokeninfo_url"] == "https://q/?key=<redacted>"
    assert "payload: |" in out, "a text of several lines stands in a block"


def test_a_configuration_without_secrets_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pfxhttp.yml"
    path.write_text(
        "server: {listen: [{kind: socket_map, name: demo, port: 1}]}\nsocket_maps: {demo: {target: 'http://h/', value_field: v}}\n"
    )
    code, out, _ = printed(path, capsys)
    assert code == 0
    again = tmp_path / "again.yml"
    again.write_text(out)
    assert load(str(again), None, {}).document == load(str(path), None, {}).document == yaml.safe_load(out)


def test_an_invalid_configuration_is_not_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(TEXT.replace("23450", "0"))
    code, out, err = printed(path, capsys)
    assert (code, out) == (78, "")
    assert err == f"{path}:2:49: server.listen[0].port: must be from 1 to 65535, not 0\n"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), below, max_size=3)
        ),
    )
)
def test_what_is_printed_reads_the_same(document: Any) -> None:
    assert yaml.safe_load(as_yaml(document)) == document
