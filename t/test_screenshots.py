"""The pictures of `pfxhttpd status` in the guide show what the program prints, and load nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

TREE = Path(__file__).resolve().parents[1]
DIRECTORY = TREE / "contrib/screenshots"
PHRASES = {
    "well": "all is well",
    "backend-down": "the circuit breaker has been ",
    "unauthorized": "got an unexpected status code",
    "workers-busy": "been busy for",
    "processes-died": " replaced in the last hour, the last one",
}
"""Picture -> what the program says in its situation."""


def text(name: str) -> str:
    """The text of a picture; lines that the terminal has broken are joined."""
    root = ElementTree.parse(DIRECTORY / f"{name}.svg").getroot()
    return "".join(
        "".join(element.itertext()).strip("\n") for element in root.iter() if element.tag.endswith("}text")
    ).replace("\xa0", " ")


@pytest.mark.parametrize("name", PHRASES)
def test_a_picture_shows_what_the_program_prints(name: str) -> None:
    program = "".join(path.read_text() for path in (TREE / "pfxhttpd/process").glob("status_*.py"))
    assert PHRASES[name] in text(name), "made by contrib/screenshots/make.py"
    assert PHRASES[name] in program, "the program prints something else now: make the pictures again"


def test_the_guide_has_all_pictures() -> None:
    guide = (TREE / "contrib/OUTAGES.md").read_text()
    assert re.findall(r"\]\(screenshots/(.*)\.svg\)", guide) == list(PHRASES)
    assert {path.stem for path in DIRECTORY.glob("*.svg")} == set(PHRASES)


@pytest.mark.parametrize("name", PHRASES)
def test_a_picture_loads_nothing(name: str) -> None:
    found = re.findall(r"(?:href=|url\(|@import)[^#]{1,40}", (DIRECTORY / f"{name}.svg").read_text())
    assert found == []
