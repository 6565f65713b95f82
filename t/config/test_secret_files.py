"""Secrets in files of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

START = "socket_maps:\n  demo:\n    target: http://h/\n    value_field: v\n"
OIDC = START + "    backend_oidc_auth: {enabled: true, configuration_uri: 'https://p/', client_id: x, "


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"u:p", "Basic dTpw"),
        (b"u:p\n", "Basic dTpw"),
        (b"u:p\r\n", "Basic dTpw"),
        (b"u:p ", "Basic dTpwIA=="),
        (b"\xc3\xbc:p", "Basic w7w6cA=="),
    ],
)
def test_a_login_from_a_file(content: bytes, expected: str, tmp_path: Path, accepted: Any) -> None:
    (tmp_path / "login").write_bytes(content)
    loaded = accepted(START + "    http_auth_basic_file: login\n", file=f"{tmp_path}/pfxhttp.yml")
    assert loaded.settings.entries["socket_map"]["demo"].headers == (("Authorization", expected),)
    assert "u:p" not in str(loaded.document) and expected not in repr(loaded.settings)


@pytest.mark.parametrize(
    "name", ["$CREDENTIALS_DIRECTORY/secret", "${CREDENTIALS_DIRECTORY}/secret", "secret", "{tmp}/secret"]
)
def test_where_a_file_is_looked_for(name: str, tmp_path: Path, accepted: Any) -> None:
    (tmp_path / "secret").write_text("geheim\n")
    (tmp_path / "key.pem").write_text("-----BEGIN\nKEY\n")
    text = OIDC + f"client_secret_file: '{name.replace('{tmp}', str(tmp_path))}', private_key_file: key.pem}}"
    oidc = (
        accepted(text, file=f"{tmp_path}/f", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
        .settings.entries["socket_map"]["demo"]
        .backend_oidc
    )
    assert (oidc.client_secret, oidc.private_key, oidc.auth_method) == (
        "geheim",
        "-----BEGIN\nKEY\n",
        "private_key_jwt",
    )
    assert "geheim" not in repr(oidc) and "BEGIN" not in repr(oidc)


def test_an_entry_s_own_file_replaces_the_default_and_the_other_way_round(tmp_path: Path, accepted: Any) -> None:
    (tmp_path / "own").write_text("own:1")
    text = "socket_maps: {defaults: {target: 'http://h/', value_field: v, %s}, demo: {%s}}"
    for defaults, own, expected in (
        ("http_auth_basic: 'u:p'", "http_auth_basic_file: own", (("Authorization", "Basic b3duOjE="),)),
        ("http_auth_basic_file: own", "http_auth_basic: 'u:p'", (("Authorization", "Basic dTpw"),)),
        ("http_auth_basic_file: none", "http_auth_basic: ''", ()),
        ("http_auth_basic_file: none", "custom_headers: ['Authorization: x']", (("Authorization", "x"),)),
        ("custom_headers: ['Authorization: x']", "http_auth_basic_file: own", (("Authorization", "Basic b3duOjE="),)),
    ):
        loaded = accepted(text % (defaults, own), file=f"{tmp_path}/f")
        assert loaded.settings.entries["socket_map"]["demo"].headers == expected
        shown = loaded.document["socket_maps"]["demo"]
        given = [key for key in ("http_auth_basic", "http_auth_basic_file") if shown[key]]
        assert given == [own.partition(":")[0]] * bool(expected and "custom" not in own), (
            "the effective document says what holds"
        )


def test_files_of_what_is_not_enabled_are_not_read(accepted: Any) -> None:
    loaded = accepted(START + "    backend_oidc_auth: {client_secret_file: /none, private_key_file: /none}")
    assert loaded.settings.entries["socket_map"]["demo"].backend_oidc.client_secret == ""


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "the file cannot be used: No such file or directory"),
        (b"", "the file cannot be used: it is empty"),
        (b"\n", "the file cannot be used: it is empty"),
        (b"u:p\nv:q\n", "the file must hold one line of text"),
        (b"u:p\n\n", "the file must hold one line of text"),
        (b"u:\xff", "the file cannot be used: it is not UTF-8 text"),
        (b"u:\0", "the file must hold one line of text"),
        (b"geheim", "the file must hold user:password, but there is no colon"),
        (b"u:" + b"x" * 65535, "the file cannot be used: it is larger than 64 KiB"),
    ],
)
def test_a_file_that_holds_no_credentials(content: bytes | None, reason: str, tmp_path: Path, refused: Any) -> None:
    if content is not None:
        (tmp_path / "login").write_bytes(content)
    (line,) = refused(START + f"    http_auth_basic_file: {tmp_path}/login\n")
    assert line == f"8:27: socket_maps.demo.http_auth_basic_file: {reason}"


def test_the_largest_file(tmp_path: Path, accepted: Any) -> None:
    (tmp_path / "login").write_bytes(b"u:" + b"x" * 65534)
    accepted(START + f"    http_auth_basic_file: {tmp_path}/login\n")


def test_what_is_no_regular_file_does_not_block(tmp_path: Path, refused: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(START + f"    http_auth_basic_file: {tmp_path}/pipe\n")[0].endswith("it is not a regular file")
    assert refused(START + f"    http_auth_basic_file: {tmp_path}\n")[0].endswith("Is a directory")
    assert refused(START + '    http_auth_basic_file: "/dev/zero"\n')[0].endswith("it is not a regular file")


def test_a_shared_default_is_reported_once(refused: Any) -> None:
    text = "socket_maps: {defaults: {target: 'http://h/', value_field: v, http_auth_basic_file: /none}, a: {}, b: {}}"
    assert refused(text) == [
        "4:85: socket_maps.defaults.http_auth_basic_file: the file cannot be used: No such file or directory"
    ]


def test_credentials_need_their_directory(refused: Any) -> None:
    (line,) = refused(OIDC + "client_secret_file: $CREDENTIALS_DIRECTORY/x}")
    assert line.startswith("8:") and line.endswith(
        "client_secret_file: CREDENTIALS_DIRECTORY is not set (does the unit have LoadCredential=?)"
    )


def test_an_unreadable_key(refused: Any) -> None:
    (line,) = refused(OIDC + "private_key_file: /none}")
    assert (
        line
        == "8:105: socket_maps.demo.backend_oidc_auth.private_key_file: the file cannot be used: No such file or directory"
    )
