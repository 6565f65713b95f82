"""`pfxhttpd check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pfxhttpd.__main__ import parser, run

MISTAKES = """\
server:
  listen:
    - kind: socket_map
      name: demo_map
      type: tcp
      address: "[::]"
      port: 234500
    - kind: policy_service
      name: exmaple_policy
      type: tcp
      port: 23451
  logging:
    levle: debug

socket_maps:
  demo_map:
    target: "https://127.0.0.1:9443/api/v1/custom/map"
    payload: '{"key": "{{ .Kye }}"}'
    value_field: data.result

policy_services:
  example_policy:
    value_field: policy.result
"""

GOOD = """\
server:
  listen: [{kind: socket_map, name: demo, port: 23450}]
socket_maps:
  demo: {target: "http://127.0.0.1/", value_field: v}
"""


def checked(path: Path | str | None, environ: Mapping[str, str] | None = None, format: str | None = None) -> int:
    """The exit code of the command, parsed as from a command line."""
    named = ["--config", str(path)] if path else []
    options = parser().parse_args([*named, *(["--format", format] if format else []), "check"])
    return run(options, environ or {})


def test_five_mistakes_are_five_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pfxhttp.yml"
    path.write_text(MISTAKES)
    assert checked(path) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{path}:7:13: server.listen[0].port: must be from 1 to 65535, not 234500",
        f'{path}:9:13: server.listen[1].name: no entry "exmaple_policy" under policy_services (did you mean example_policy?)',
        f"{path}:13:5: server.logging.levle: unknown key (did you mean level?)",
        next(
            line
            for line in err.splitlines()
            if line.startswith(f"{path}:18:14: socket_maps.demo_map.payload: ") and ".Kye" in line
        ),
        f"{path}:22:3: policy_services.example_policy.target: is missing",
    ]


def test_a_valid_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pfxhttp.conf"
    path.write_text(GOOD)
    assert checked(path) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", "")
    assert checked(path, {"PFXHTTP_SERVER_LOGGING_LEVEL": "loud"}) == 78
    assert capsys.readouterr().err.startswith("environment: PFXHTTP_SERVER_LOGGING_LEVEL: ")
    assert checked(path, format="json") == 78
    assert capsys.readouterr().err == f"{path}:1:1: not valid JSON: expecting value\n"


def test_an_unsupported_feature_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pfxhttp.yml"
    path.write_text(
        GOOD.replace("v}", "v, backend_oidc_auth: {enabled: true, configuration_uri: 'https://p/', client_id: x}}")
    )
    assert checked(path) == 78
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"{path}: socket_maps.demo.backend_oidc_auth: ") and err.count("\n") == 1


def test_without_config_the_file_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checked(None, {"HOME": str(tmp_path)}) == 78
    assert capsys.readouterr().err.startswith("no configuration file: looked for pfxhttp.yml ")
    (tmp_path / ".pfxhttp").mkdir()
    (tmp_path / ".pfxhttp/pfxhttp.yml").write_text(GOOD)
    assert checked(None, {"HOME": str(tmp_path)}) == 0
    assert capsys.readouterr().out == f"{tmp_path}/.pfxhttp/pfxhttp.yml: ok\n"


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked("/none/x.yml") == 78
    assert capsys.readouterr().err == "/none/x.yml: cannot be read: No such file or directory\n"
