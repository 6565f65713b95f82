"""`pfxhttpd check`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from kit.oidc.keys import SigningKey

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


@pytest.fixture(autouse=True)
def _not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def other_key(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


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


def test_root_learns_that_the_server_would_run_as_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    path = tmp_path / "pfxhttp.conf"
    path.write_text(GOOD)
    assert checked(path) == 0
    warning = "warning: server.run_as_user is not set, so a server that root starts runs as root"
    assert capsys.readouterr() == (f"{path}: ok\n{path}: {warning}\n", "")
    assert checked(path, {"PFXHTTP_SERVER_RUN_AS_USER": "nobody"}) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", "")


KEY_FILES = {
    "encrypted": (
        SigningKey("ES256").pem(b"passphrase"),
        "the key is encrypted; it must be stored without a passphrase",
    ),
    "public": (SigningKey("ES256").public_pem().decode(), "it holds no private key in PEM form"),
    "no PEM": ("secret", "it holds no private key in PEM form"),
    "short": (SigningKey("RS256", bits=1024).pem(), "an RSA key needs 2048 bits at least, this one has 1024"),
    "curve": (other_key(ec.generate_private_key(ec.SECP256K1())), "its curve must be P-256, P-384 or P-521"),
    "type": (other_key(x25519.X25519PrivateKey.generate()), "it must be an RSA, EC or Ed25519 key"),
}
"""What is in a key file, and what is to be said of it."""

CLIENT = "enabled: true, configuration_uri: 'https://p/', client_id: x, private_key_file: key.pem"


@pytest.mark.parametrize("kind", KEY_FILES)
def test_a_key_file_is_opened(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, complaint = KEY_FILES[kind]
    (tmp_path / "key.pem").write_text(content)
    path = tmp_path / "pfxhttp.yml"
    path.write_text(GOOD.replace("v}", f"v, backend_oidc_auth: {{{CLIENT}}}}}"))
    assert checked(path) == 78
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.endswith(f": socket_maps.demo.backend_oidc_auth.private_key_file: the key cannot be used: {complaint}\n")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_good_key_file(algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.pem").write_text(SigningKey(algorithm).pem())
    path = tmp_path / "pfxhttp.yml"
    path.write_text(GOOD.replace("v}", f"v, backend_oidc_auth: {{{CLIENT}}}}}"))
    assert checked(path) == 0, capsys.readouterr().err


def test_the_key_files_of_several_providers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.pem").write_text("secret")
    path = tmp_path / "pfxhttp.yml"
    provider = f"{{{CLIENT.replace('enabled: true, ', '')}}}"
    path.write_text(
        GOOD + "dovecot_sasl: {s: {target: 'http://h/', sasl_oidc_auth: {enabled: true, providers: [\n"
        f"  {{configuration_uri: 'https://q/'}},\n  {provider}]}}}}}}\n"
    )
    assert checked(path) == 78
    err = capsys.readouterr().err
    assert (
        err.startswith(f"{path}:7:") and "sasl_oidc_auth.providers[1].private_key_file: the key cannot be used" in err
    )


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


def test_a_code_that_accepts_and_rejects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pfxhttp.yml"
    file.write_text(f"{GOOD}dovecot_sasl:\n  s: {{target: 'http://127.0.0.1/', reject_status: [400, 200]}}\n")
    assert checked(file) == 78
    complaint = "dovecot_sasl.s.reject_status: 200 is also in `status_code`, which accepts the login"
    assert capsys.readouterr().err == f"{file}:6:51: {complaint}\n"
