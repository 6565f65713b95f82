"""What the README and its siblings say is there, and its example is a configuration that works with its lines for Postfix."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from pfxhttpd.config.load import load_text
from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP, Settings

TREE = Path(__file__).resolve().parents[1]
README = (TREE / "README.md").read_text()
PAGES = sorted(str(path.relative_to(TREE)) for path in [*TREE.glob("*.md"), *TREE.glob("contrib/*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (TREE / page).read_text())
    missing = [
        link for link in links if not link.startswith("https://") and not (TREE / page).parent.joinpath(link).exists()
    ]
    assert missing == []


def blocks(title: str) -> list[str]:
    """The indented blocks under a heading."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [
        textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE) if block.strip()
    ]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_text(blocks("Configuration")[0], "README.md", "yaml", {}).settings


def test_the_lines_for_postfix_fit_the_example_configuration(settings: Settings) -> None:
    (lines,) = blocks("Postfix")
    maps = re.findall(r"socketmap:inet:([^:]+):(\d+):(\w+)", lines)
    assert len(maps) == 2
    ports = {(listener.kind, listener.address, str(listener.port)) for listener in settings.server.listen}
    for host, port, name in maps:
        assert (SOCKET_MAP, host, port) in ports and name in settings.entries[SOCKET_MAP]
    host, port = re.findall(r"check_policy_service inet:([^:]+):(\d+)", lines)[0]
    assert (POLICY_SERVICE, host, port) in ports


def test_every_package_is_listed_with_its_reason() -> None:
    declared = re.search(r"install_requires =\n((?:    .*\n)+)", (TREE / "setup.cfg").read_text())
    assert declared
    names = {re.split(r"[<>=]", line.strip())[0] for line in declared[1].splitlines()}
    assert names == set(re.findall(r"^\| ([\w.\[\]-]+) \| [^|]{10,} \|$", README, re.MULTILINE))


@pytest.mark.parametrize("program", ["contrib/quickstart", "t/run"])
def test_the_commands_to_begin_with_can_be_run(program: str) -> None:
    assert f"\n    {program}\n" in README
    assert (TREE / program).stat().st_mode & 0o111 == 0o111
