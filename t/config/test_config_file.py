"""The configuration file: which one is used, in which format, and what can be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pfxhttpd.config import config_file
from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import load


def test_the_largest_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"#" * config_file.MAX_SIZE)
    assert len(config_file.read(str(path))) == config_file.MAX_SIZE
    path.write_bytes(b"#" * (config_file.MAX_SIZE + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        config_file.read(str(path))


def test_a_byte_order_mark_is_dropped() -> None:
    assert config_file.decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"


@pytest.mark.parametrize(
    "name, named, expected",
    [
        ("x.yml", None, "yaml"),
        ("x.yaml", None, "yaml"),
        ("x.json", None, "json"),
        ("x.TOML", None, "toml"),
        ("x.conf", None, "yaml"),
        ("x", None, "yaml"),
        ("x.json", "toml", "toml"),
        ("x.yml", "json", "json"),
    ],
)
def test_the_format_is_the_named_one_or_the_extension(name: str, named: str | None, expected: str) -> None:
    assert config_file.chosen_format(name, named) == expected


def unreadable(path: str) -> str:
    """The error for a file that cannot be read."""
    with pytest.raises(ConfigError) as caught:
        load(path, None, {})
    return str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert unreadable(str(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"
    assert unreadable(f"{tmp_path}/none.yml") == f"{tmp_path}/none.yml: cannot be read: No such file or directory"
    assert unreadable(str(loop)) == f"{loop}: cannot be read: Too many levels of symbolic links"
    assert unreadable("a\0b") == "a b: cannot be read: embedded null byte"
    assert unreadable("/dev/zero") == "/dev/zero: larger than 1 MiB, which no configuration needs"


def test_the_directories_are_searched_in_order(tmp_path: Path) -> None:
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    (home / ".pfxhttp").mkdir(parents=True)
    cwd.mkdir()
    with pytest.raises(ConfigError) as caught:
        config_file.search(str(home), str(cwd))
    assert str(caught.value) == (
        "no configuration file: looked for pfxhttp.yml (or .yaml, .toml, .json) in /usr/local/etc/pfxhttp, /etc/pfxhttp, "
        f"{home}/.pfxhttp, {cwd}; name one with --config"
    )
    for path in (
        cwd / "pfxhttp.json",
        cwd / "pfxhttp.yaml",
        home / ".pfxhttp/pfxhttp.toml",
        home / ".pfxhttp/pfxhttp.yml",
    ):
        path.write_text("")
        assert config_file.search(str(home), str(cwd)) == str(path)
    os.remove(home / ".pfxhttp/pfxhttp.yml")
    (home / ".pfxhttp/pfxhttp.yml").mkdir()
    assert config_file.search(str(home), str(cwd)) == str(home / ".pfxhttp/pfxhttp.toml")
    assert config_file.search("", str(cwd)) == str(cwd / "pfxhttp.yaml")


def test_keys_at_the_top_level_that_begin_with_x_hold_what_the_file_refers_to(accepted: Any) -> None:
    text = (
        "server: {listen: [{kind: socket_map, port: 1}]}\n"
        "x-api: &api {target: 'http://h/', value_field: v, anything: &f {}}\n"
        "x-time: &time 3s\n"
        "socket_maps:\n  demo: {target: 'http://h/', value_field: v, timeout: *time}\n  defaults: *f\n"
    )
    loaded = accepted(text)
    assert loaded.settings.entries["socket_map"]["demo"].timeout == 3
    assert not [key for key in loaded.document if key.startswith("x-")]


def test_such_a_key_is_an_error_elsewhere(refused: Any) -> None:
    (problem,) = refused("socket_maps: {demo: {target: 'http://h/', value_field: v, x-note: a}}\n")
    assert "socket_maps.demo.x-note: unknown key" in problem


@pytest.mark.parametrize("level", ["DEBUG", "Info", "error", "NONE"])
def test_the_names_of_levels_may_be_in_capital_letters(level: str, accepted: Any) -> None:
    text = f"server: {{listen: [{{kind: socket_map, port: 1}}], logging: {{level: {level}}}}}\nsocket_maps: {{demo: {{target: 'http://h/', value_field: v}}}}\n"
    assert accepted(text).settings.server.logging.level == level.lower()
