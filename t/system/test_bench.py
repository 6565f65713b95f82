"""The benchmark runs, its two load generators agree, and its arithmetic is right. What it measures is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCH = Path(__file__).resolve().parents[2] / "contrib" / "bench"


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
    for name in ("load", "plot", "scenes", "servers", "table"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    from load import generator

    compiled = generator(tmp_path_factory.mktemp("load"))
    return {"C": compiled, "Python": [sys.executable, str(BENCH / "load.py")]}


def test_load_compiles_without_a_warning(tmp_path: Path):
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "load"), str(BENCH / "load.c")]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("language", ["C", "Python"])
@pytest.mark.parametrize("kind", ["map", "policy", "http"])
def test_load(generators: dict[str, list[str]], tmp_path: Path, language: str, kind: str):
    import servers
    from load import measure

    command, moments = generators[language], []
    assert language == "Python" or command[0].endswith("/load"), "it did not compile"
    with servers.backend(tmp_path, delay=0.001, echo=kind != "policy") as behind:
        name, wanted = ("/", "=") if kind == "http" else ("bench", "=" if kind == "map" else "DUNNO")
        with (
            servers.naive(tmp_path, kind, 4, f"http://127.0.0.1:{behind.port}/") if kind != "http" else behind as server
        ):
            found = measure(command, kind, server.port, 2, 1, 0.5, 0.1, name, wanted, moments.append)
    assert moments == ["begin", "end"]
    assert found["answers"] > 10 and found["rate"] == pytest.approx(found["answers"] / found["seconds"], rel=0.01)
    assert (found["wrong"], found["lost"], found["silent_lost"], found["served"]) == (0, 0, 0, 2)
    assert 1 <= found["p50"] <= found["p99"] <= found["slowest"]
    assert 0 < found["least"] <= found["most"] <= found["answers"]


def test_load_tells_wrong_answers(generators: dict[str, list[str]], tmp_path: Path):
    import servers
    from load import measure

    for command in generators.values():
        with servers.backend(tmp_path, delay=0.001) as server:
            found = measure(command, "http", server.port, 1, 0, 0.2, 0.0, "/", "another")
        assert found["wrong"] >= found["answers"] > 0


def test_a_whole_run(tmp_path: Path):
    """With our own backend, as where there is no nginx."""
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, str(BENCH / "run"), "--only", "slow,logging", "--repeats", "1", "--seconds", "0.3",
         "--json", str(tmp_path / "out.json"), "--svg", str(tmp_path / "out.svg")],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 ms backend" in done.stdout and "least against most" in done.stdout
    samples = json.loads((tmp_path / "out.json").read_text())["samples"]
    assert {sample["server"] for sample in samples} == {"straight", "pfxhttpd"}
    assert all(sample["figures"]["wrong"] == 0 for sample in samples)


def test_targets_compare_within_a_repetition():
    from scenes import Sample
    from table import targets

    samples = []
    for turn, speed in enumerate((1.0, 0.1, 0.5)):  # a machine that is slowed down by others now and then
        for server, rate, processor in (("naive", 1000, 600), ("pfxhttpd", 5000, 100)):
            figures = {"rate": rate * speed, "processor": processor / speed}
            samples.append(Sample(server, "map, 4 clients", turn, figures))
    first, second = targets(samples)
    assert (first.measured, first.met) == ("5.00", True)
    assert (second.measured, second.met) == ("0.167", True)
    assert targets([]) == []


def test_the_plot_is_xml():
    from plot import nice, rate_over_clients
    from scenes import Sample

    samples = [
        Sample("naive", "map, 4 clients", 0, {"rate": 1234.0}),
        Sample("naive", "map, 1 client", 0, {"rate": 9.0}),
    ]
    assert ElementTree.fromstring(rate_over_clients(samples)).tag.endswith("svg")
    assert "1234" in rate_over_clients(samples)
    ElementTree.fromstring(rate_over_clients([]))
    assert [nice(value) for value in (1, 9, 11, 1234, 8001)] == [1, 10, 15, 1500, 10000]
