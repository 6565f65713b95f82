"""contrib/SASL.md: its configurations load, its lines for Postfix and Exim are understood by those, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import yaml
from kit import daemon, exim
from kit.needs import needs

PAGE = daemon.TREE / "contrib/SASL.md"
TEXT = PAGE.read_text()


def blocks(title: str) -> list[str]:
    """The indented blocks under a heading."""
    section = re.split(rf"^#+ {title}\n", TEXT, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    return [
        textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE) if block.strip()
    ]


def checked(configuration: str, directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "api.password").write_text("user:password\n")
    path = directory / "pfxhttp.yml"
    (directory / "sockets").mkdir(exist_ok=True)
    configuration = configuration.replace("/etc/pfxhttp/api.password", f"{directory}/api.password")
    path.write_text(configuration.replace("/var/spool/postfix/pfxhttp", f"{directory}/sockets"))
    return daemon.run("--config", str(path), "check")


def test_the_configuration_is_valid_over_either_socket(tmp_path: Path):
    unix, tcp, _ = blocks("pfxhttpd")
    done = checked(unix, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    document = yaml.safe_load(unix)
    document["server"]["listen"] = yaml.safe_load(tcp)
    done = checked(yaml.safe_dump(document), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [each["name"] for each in document["server"]["listen"]] == list(document["dovecot_sasl"])


def test_postfix_knows_every_parameter(tmp_path: Path):
    needs("postconf")
    main, master = blocks("Postfix")
    assert yaml.safe_load(blocks("pfxhttpd")[0])["server"]["listen"][0]["address"].endswith(
        re.findall(r"smtpd_sasl_path = (.*)", main)[0])  # fmt: skip
    options = [line.strip().removeprefix("-o ").replace("=", " = ") for line in master.splitlines() if "-o" in line]
    assert len(options) == 4
    mentioned = [word for word in re.findall(r"`(\w+)`", TEXT) if word.startswith("smtpd_")]
    (tmp_path / "main.cf").write_text(main + "\n".join(options) + "\n")
    (tmp_path / "master.cf").write_text(master)
    done = subprocess.run(["postconf", "-c", str(tmp_path), "-n"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked = subprocess.run(["postconf", "-c", str(tmp_path), *sorted(set(mentioned))], capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    kinds = subprocess.run(["postconf", "-a"], capture_output=True, text=True).stdout.split()
    assert "dovecot" in kinds


def test_exim_understands_its_authenticators(tmp_path: Path):
    needs("root", "exim")
    (authenticators,) = blocks("Exim")
    program = os.environ["PFXHTTPD_TEST_EXIM"]
    conf = tmp_path / "exim.conf"
    main = exim.MAIN.format(port=25, directory=tmp_path, program=program)
    for text, code in ((main + authenticators, 0), (main + authenticators.replace("server_socket", "server_sock"), 1)):
        conf.write_text(text)
        done = subprocess.run([program, "-C", str(conf), "-bP", "authenticators"], capture_output=True, text=True)
        assert (done.returncode != 0) == code, done.stderr


def test_nauthilus_is_that_of_the_example():
    (part,) = blocks("Nauthilus")
    assert part.strip() in (PAGE.parent / "config/nauthilus.yml").read_text()


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not link.startswith("https://")]
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []
