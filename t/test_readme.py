"""What the README and its siblings say is there, and its example is a configuration that works with its lines for Postfix."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import daemon
from kit.oidc.keys import SigningKey

from pfxhttpd.config.load import load_text
from pfxhttpd.config.settings import POLICY_SERVICE, SOCKET_MAP, Settings
from pfxhttpd.rules import template, verdict
from pfxhttpd.rules.response import BackendResponse, read_document

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


def indented(text: str) -> list[str]:
    """The indented blocks of a text in Markdown."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE) if block.strip()]


def blocks(title: str) -> list[str]:
    """The indented blocks under a heading."""
    return indented(README.partition(f"\n## {title}\n")[2].partition("\n## ")[0])


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


def test_the_example_lookup_is_as_it_is_described(settings: Settings) -> None:
    """The request, the value and the absence that follow the example configuration."""
    text = README.partition("\n## Configuration\n")[2].partition("\n## ")[0]
    payload, *responses = [
        part for part in re.findall(r"`(\{.*?\})`", text.replace("\n", " ")) if not part.startswith("{{")
    ]
    entry = settings.entries[SOCKET_MAP]["mailboxes"]
    assert template.payload_of(entry).render("alice@example.com").decode() == payload
    documents = [read_document(entry, 200, body.encode()) for body in responses]
    replies = [verdict.map_reply(entry, BackendResponse(200, {}, b"", document)).reply for document in documents]
    assert [(reply.status, reply.text) for reply in replies] == [("OK", "example.com/alice/"), ("NOTFOUND", "")]


def test_every_package_is_listed_with_its_reason() -> None:
    """Those of pfxhttpd itself and those of its extra for OpenTelemetry; the tests' own are not the user's concern."""
    declared = re.findall(
        r"^(?:install_requires|otel) =\n((?:    .*\n)+)", (TREE / "setup.cfg").read_text(), re.MULTILINE
    )
    assert len(declared) == 2
    names = {re.split(r"[<>=]", line.strip())[0] for block in declared for line in block.splitlines()}
    assert names == set(re.findall(r"^\| ([\w.\[\]-]+) \| [^|]{10,} \|$", README, re.MULTILINE))


@pytest.mark.parametrize("program", ["contrib/quickstart", "t/run"])
def test_the_commands_to_begin_with_can_be_run(program: str) -> None:
    assert f"\n    {program}\n" in README
    assert (TREE / program).stat().st_mode & 0o111 == 0o111


FRAGMENTS = [
    (page, block)
    for page in PAGES
    for block in indented((TREE / page).read_text())
    if re.match(r"(server|socket_maps|policy_services|dovecot_sasl):\n", block.lstrip("\n"))
]


KEY = SigningKey("ES256").pem()


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """A part of a configuration with what it leaves out: a listener, and an entry for each listener."""
    sections = {"socket_map": "socket_maps", "policy_service": "policy_services", "dovecot_sasl": "dovecot_sasl"}
    kinds = [kind for kind, section in sections.items() if section in document] or ["socket_map"]
    names = {kind: [name for name in document.get(sections[kind]) or {} if name != "defaults"] for kind in kinds}
    listen = document.setdefault("server", {}).setdefault(
        "listen",
        [
            {"kind": kind, "name": (names[kind] or ["example"])[0], "address": "127.0.0.1", "port": 23450 + number}
            for number, kind in enumerate(kinds)
        ],
    )
    for listener in listen:
        entries = document.setdefault(sections[listener["kind"]], {})
        if not set(entries) - {"defaults"}:
            entries[listener["name"]] = {"value_field": "result"}
            if "target" not in entries.get("defaults", {}):
                entries[listener["name"]]["target"] = "https://api.example.com/"
    return document


@pytest.mark.parametrize(
    "page, block", FRAGMENTS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(FRAGMENTS)]
)
def test_check_accepts_every_configuration_in_the_guides(page: str, block: str, tmp_path: Path) -> None:
    for path in re.findall(r"(?:/etc/pfxhttp|\$\{CREDENTIALS_DIRECTORY\})/([\w.]+)", block):
        (tmp_path / path).write_text(KEY if path.endswith(".pem") else "user:password\n")
    block = block.replace("/etc/pfxhttp/", f"{tmp_path}/").replace("/var/spool/postfix/pfxhttp/", f"{tmp_path}/")
    document = completed(yaml.safe_load(block))
    for part in (document["server"], *document["server"]["listen"]):  # this machine may have no such user
        part.update({key: "0" for key in ("user", "group", "run_as_user", "run_as_group") if key in part})
    (tmp_path / "pfxhttp.yml").write_text(yaml.safe_dump(document))
    done = daemon.run(
        "--config", str(tmp_path / "pfxhttp.yml"), "check", environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_guides_have_configurations() -> None:
    assert {page for page, _ in FRAGMENTS} >= {
        "README.md",
        *(f"contrib/{name}.md" for name in ("DEPLOYMENT", "SASL", "TUNING")),
    }


CONFIGURATIONS = sorted(TREE.glob("contrib/config/*"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_example_names_the_schema_for_editors(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert schema, first
    assert (path.parent / schema[1]).resolve() == TREE / "pfxhttpd/config/schema.json"


def test_the_installation_puts_each_file_where_it_says_that_it_belongs() -> None:
    commands = "\n".join(blocks("Installing"))
    installed = re.findall(r"^install -D -m \d+ (?:-g pfxhttp )?(\S+) (\S+)$", commands, re.MULTILINE)
    assert len(installed) >= 7 and len(installed) == len(re.findall(r"^install ", commands, re.MULTILINE))
    for source, destination in installed:
        text = (TREE / source).read_text()
        if source.startswith("init/"):
            assert destination in text.partition("\n[")[0], f"{source} does not say that it becomes {destination}"
    places = dict(installed)
    pattern, path = re.findall(r"sed -i 's\|(.+)\|=(.+)\|'", commands)[0]
    assert re.search(pattern, (TREE / "contrib/config/pfxhttp.yml").read_text().splitlines()[0])
    assert places["pfxhttpd/config/schema.json"] == path
    unit = (TREE / "init/systemd/pfxhttpd.service").read_text()
    assert f"ExecStart={commands.split('ln -s ')[1].split()[1]} " in unit


def test_every_file_of_the_package_is_listed_in_contributing() -> None:
    text = (TREE / "CONTRIBUTING.md").read_text().partition("\n## Layout\n")[2].partition("\n## ")[0]
    listed = set()
    for package, table in re.findall(r"(?ms)^\*\*(\w+)\*\*: (.*?)(?=^\*\*|\Z)", text):
        for row in re.findall(r"(?m)^\| (`.*) \|$", table):
            first, _, rest = row.partition(" | ")
            names = re.findall(r"`([\w./]+)`", first)
            directory = names[-1] if names[-1].endswith("/") else ""
            listed |= {f"{package}/{name}" for name in names if not name.endswith("/")}
            listed |= {f"{package}/{directory}{name}" for name in re.findall(r"`(\w+\.py)`", rest) if directory}
    there = {
        str(path.relative_to(TREE / "pfxhttpd"))
        for path in (TREE / "pfxhttpd").rglob("*")
        if path.suffix in (".py", ".json") and path.parent != TREE / "pfxhttpd" and path.name != "__init__.py"
    }
    assert listed == there
