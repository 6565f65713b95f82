"""The manual pages: well formed, and complete. A key that is declared in the schema and not described is a mistake."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from kit import daemon
from kit.needs import needs

from pfxhttpd.__main__ import parser

TREE = Path(__file__).resolve().parents[1]
PAGES = sorted((TREE / "man").glob("*.[0-9]"))
SCHEMA = json.loads((TREE / "pfxhttpd/config/schema.json").read_text())
CONFIGURATION = TREE / "man/pfxhttp.yml.5"

LONGEST_ENUMERATION = 6
"""Values that a page has to name one by one; a longer list may be told as a range."""


def resolved(declaration: dict[str, Any]) -> dict[str, Any]:
    """The declaration with what it refers to, nearest first."""
    if "$ref" in declaration:
        declaration = {**resolved(SCHEMA["$defs"][declaration["$ref"].rpartition("/")[2]]), **declaration}
    return declaration


def declared(block: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each single value declared in a block, by its path."""
    for name, declaration in block["properties"].items():
        declaration = resolved(declaration)
        if "properties" in declaration:
            yield from declared(declaration, f"{path}{name}.")
        else:
            yield f"{path}{name}", declaration


def items(page: Path) -> dict[str, dict[str, str]]:
    """Section -> key -> the text of its `.It Cm` in a page."""
    found: dict[str, dict[str, str]] = {}
    names: list[str] = []
    section: dict[str, str] = {}
    for line in page.read_text().splitlines():
        if line.startswith(".Sh "):
            section = found.setdefault(line[4:].strip('"'), {})
            names = []
        elif line.startswith(".It Cm "):
            names = [word for word in line.split()[2:] if word != ","]
            section.update({name: section.get(name, "") for name in names})
        elif line.startswith(".It "):
            pass
        else:
            for name in names:
                section[name] += line.replace("\\(dq", '"') + "\n"
    return found


def expected() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Section of the page, key as it stands there, and its declaration."""
    definitions = SCHEMA["$defs"]
    for path, declaration in declared(definitions["server"], "server."):
        if path != "server.listen":
            yield "SERVER", path, declaration
    for path, declaration in declared(definitions["listener"]):
        yield "LISTENERS", path, declaration
    for kind in ("socket_map", "policy_service", "sasl"):
        for path, declaration in declared(definitions[kind]):
            if declaration.get("ignored"):
                continue  # told in a sentence, below
            _, dot, key = path.partition(".")
            yield ("TOKENS", key, declaration) if dot else ("ENTRIES", path, declaration)


EXPECTED = list({(section, key, json.dumps(declaration)): None for section, key, declaration in expected()})


@pytest.mark.parametrize("section, key, declaration", EXPECTED, ids=[f"{each[0]}-{each[1]}" for each in EXPECTED])
def test_every_key_of_the_schema_is_described(section: str, key: str, declaration: str) -> None:
    text = items(CONFIGURATION)[section].get(key)
    assert text, f"{key} is not described under {section}"
    told = json.loads(declaration)
    values = told.get("enum", [])
    for value in values if len(values) <= LONGEST_ENUMERATION else []:
        assert re.search(rf"\b{re.escape(str(value))}\b", text), f"{key} may be {value}"
    default = told.get("default")
    for value in default if isinstance(default, list) else [default]:
        if value not in (None, "", {}):
            shown = json.dumps(value) if isinstance(value, bool) else str(value)
            assert re.search(rf"(?s)[Dd]efault.*(?<!\w){re.escape(shown)}(?!\w)", text), (
                f"the default of {key} is {shown}"
            )


@pytest.mark.parametrize("block", ["worker_pool", "backend_oidc_auth", "sasl_oidc_auth"])
def test_every_block_is_described_where_it_may_stand(block: str) -> None:
    section = "LISTENERS" if block == "worker_pool" else "ENTRIES"
    assert items(CONFIGURATION)[section].get(block)


def test_no_key_is_described_that_is_not_declared() -> None:
    known = {(section, key) for section, key, _ in EXPECTED}
    known |= {("LISTENERS", "worker_pool"), ("ENTRIES", "backend_oidc_auth"), ("ENTRIES", "sasl_oidc_auth")}
    described = {(section, key) for section, keys in items(CONFIGURATION).items() for key in keys}
    assert described - known == set()


def test_the_key_reference_is_that_of_the_schema(tmp_path: Path) -> None:
    """Run man/generate.py after a change of a description, a default or a bound."""
    program = TREE / "man/generate.py"
    assert CONFIGURATION.read_text() == load_generator(program).generated(CONFIGURATION.read_text())
    tree = tmp_path / "tree"
    for path in (program, CONFIGURATION, TREE / "pfxhttpd/config/schema.json"):
        copy = tree / path.relative_to(TREE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    schema = tree / "pfxhttpd/config/schema.json"
    schema.write_text(schema.read_text().replace("This is the TCP port.", "This is another port."))
    check = [sys.executable, str(tree / "man/generate.py"), "--check"]
    assert subprocess.run(check).returncode == 1
    assert subprocess.run(check[:2]).returncode == 0
    assert "This is another port." in (tree / "man/pfxhttp.yml.5").read_text()
    assert subprocess.run(check).returncode == 0


def load_generator(program: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", program)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_keys_without_an_effect_are_named() -> None:
    ignored = [
        name for name, declaration in SCHEMA["$defs"]["sasl"]["properties"].items() if declaration.get("ignored")
    ]
    text = " ".join(CONFIGURATION.read_text().split())
    assert f".Cm {' , '.join(ignored[:-1])} and .Cm {ignored[-1]} are accepted under" in text


def literal_blocks(page: Path) -> list[str]:
    """The displays of a page that are written by hand, as they are shown."""
    text = re.sub(r'(?ms)^\.\\" Generated: ([^\n]+)$.*?^\.\\" End of \1$', "", page.read_text())
    found = re.findall(r"(?ms)^\.Bd -literal -offset indent\n(.*?)^\.Ed$", text)
    return [block.replace("\\(dq", '"').replace("\\&", "").replace("\\e", "\\") for block in found]


CONFIGURATIONS = [block for block in literal_blocks(CONFIGURATION) if re.search(r"^server:", block, re.MULTILINE)]


@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_check_accepts_every_example(number: int, tmp_path: Path) -> None:
    text = CONFIGURATIONS[number].replace("/var/spool/postfix/pfxhttp/", f"{tmp_path}/")  # not on every machine
    (tmp_path / "pfxhttp.yml").write_text(text)
    done = daemon.run("--config", str(tmp_path / "pfxhttp.yml"), "check")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_example_is_a_configuration_or_a_comment_for_editors() -> None:
    rest = [block for block in literal_blocks(CONFIGURATION) if block not in CONFIGURATIONS]
    assert len(CONFIGURATIONS) >= 3
    assert rest == ["# yaml-language-server: $schema=/path/to/pfxhttpd/config/schema.json\n"]


LINES = [
    (section, line)
    for section, keys in items(CONFIGURATION).items()
    for text in keys.values()
    for block in re.findall(r"(?ms)^\.Bd -literal -offset indent -compact$(.*?)^\.Ed$", text)
    for line in block.split("\n")
    if line
]


@pytest.mark.parametrize("section, line", LINES, ids=[line for _, line in LINES])
def test_every_example_of_a_key_is_valid_yaml_for_that_key(section: str, line: str) -> None:
    """The value that an administrator copies from the page is the one that the schema gives."""
    ((key, value),) = yaml.safe_load(line.replace("\\&", "").replace("\\-", "-").replace("\\e", "\\")).items()
    declarations = [json.loads(text) for place, path, text in EXPECTED if place == section and path.endswith(key)]
    assert any(value in declaration.get("examples", []) for declaration in declarations)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {
        name.removeprefix("-") for action in parser._actions for name in action.option_strings if name.startswith("--")
    }


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(action.choices)


def test_every_command_and_option_is_described() -> None:
    told = (TREE / "man/pfxhttpd.8").read_text()
    top = parser()
    commands = commands_of(top)
    assert len(commands) > 5
    for name, command in {"": top, **commands}.items():
        assert not name or re.search(rf"^\.It Cm {name}\b", told, re.MULTILINE), f"{name} is not described"
        for option in options_of(command) - ({"-help"} if name else set()):
            assert re.search(rf"Fl {option}\b", told), f"{name} {option} is not described"
    for name in commands_of(commands["cache"]):
        assert f".It Cm cache {name}" in told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_warn_of(page: Path) -> None:
    needs("mandoc")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_shows_the_page_without_warnings(page: Path) -> None:
    needs("man")
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MANWIDTH": "100"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 50
