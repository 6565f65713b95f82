"""The benchmark runs, its load generator counts correctly, and its arithmetic is right. The figures are not tested."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from bench.load import Generator

TREE = Path(__file__).resolve().parents[2]
BENCH = TREE / "contrib" / "bench"

pytestmark = pytest.mark.load


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCH.parent))
    yield
    sys.path.remove(str(BENCH.parent))
    for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    from bench.load import Generator

    return Generator(tmp_path_factory.mktemp("load"))


def run(program: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def test_load_compiles_without_a_warning(tmp_path: Path):
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "load"), str(BENCH / "load.c")]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    "protocol, environment", [("map", "environment"), ("policy", "direct"), ("sasl", "environment"), ("map", "direct")]
)
def test_load_on_the_naive_server(generator: Generator, tmp_path: Path, protocol: str, environment: str):
    from bench.backends import script_backend
    from bench.load import Load
    from bench.server import ScriptServer

    moments: list[str] = []
    expected = {"map": "OK user", "policy": "action=DUNNO", "sasl": "="}[protocol]
    with (
        script_backend(tmp_path, delay=0.001, echo=protocol == "map") as backend,
        ScriptServer(tmp_path, "naive.py", protocol, 4, backend.url, environment) as server,
    ):
        load = Load(protocol, busy=2, silent=1, warm=0.1, expected=expected)
        found = generator.measure(load, server.port, 0.5, moments.append)
    assert moments == ["begin", "end"]
    assert found["replies"] > 10
    assert found["rate"] == pytest.approx(found["replies"] / found["seconds"], rel=0.01)
    assert (found["wrong"], found["lost"], found["silent_lost"], found["served"]) == (0, 0, 0, 2)
    assert 1 <= found["p50"] <= found["p99"] <= found["slowest"]
    assert 0 < found["least"] <= found["most"] <= found["replies"]


def test_load_counts_wrong_replies(generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from bench.backends import script_backend
    from bench.load import Load

    with script_backend(tmp_path, delay=0.001) as backend:
        found = generator.measure(Load("http", busy=1, warm=0.0, expected="another"), backend.port, 0.2)
    assert found["wrong"] >= found["replies"] > 0
    assert "an unexpected reply: HTTP/1.1 200 OK" in capsys.readouterr().err


def test_load_repeats_keys(generator: Generator, tmp_path: Path):
    from bench.backends import script_backend
    from bench.load import Load

    with script_backend(tmp_path, echo=True) as backend:
        found = generator.measure(Load("http", busy=1, warm=0.0, expected="user0.2@", keys=2), backend.port, 0.2)
        assert found["wrong"] >= found["replies"] > 0, "the third key was not the first one again"
        found = generator.measure(Load("http", busy=1, warm=0.0, expected="user0.2@", keys=3), backend.port, 0.2)
        assert 0 < found["wrong"] < found["replies"], "the third key did not come"


def test_a_run_against_another_tree(tmp_path: Path):
    """With backend.py, as where nginx is not installed."""
    done = run(
        "run", "--only", "slow,protocols", "--repeats", "2", "--seconds", "0.1", "--against", str(TREE),
        "--json", str(tmp_path / "out.json"), "--svg", str(tmp_path / "out.svg"), "--limits", "100,100",
        env={**os.environ, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 clients, against the baseline +<= 100 +[\d.]+ +met", done.stdout)
    assert "rate, 20 ms backend, against direct connections" in done.stdout
    samples = json.loads((tmp_path / "out.json").read_text())["samples"]
    assert {sample["server"] for sample in samples} == {"direct", "baseline", "pfxhttpd", "naive", "naive, no env"}
    assert all(sample["figures"]["wrong"] == 0 for sample in samples)
    order = [s["server"] for s in samples if s["scene"] == "sasl, 4 clients"]
    assert order == [*order[:4], *reversed(order[:4])]
    ElementTree.parse(tmp_path / "out.svg")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "plain"], "no such scene: plain"),
        (["--against", "/nowhere"], "/nowhere is no checkout of pfxhttpd"),
        (["--limits", "a,b"], "--limits takes two numbers"),
        (["--limits", "1,2,3"], "--limits takes two numbers"),
    ],
)
def test_wrong_options(arguments: list[str], message: str):
    done = run("run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_other_tree_is_the_one_that_runs(tmp_path: Path):
    from bench.build import Build

    package = tmp_path / "pfxhttpd"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys; print(__file__, sys.argv[1:])")
    build = Build("other", tmp_path, sys.executable)
    done = subprocess.run(build.command("--version"), env=build.environment(), cwd="/", capture_output=True, text=True)
    assert done.stdout == f"{package / '__main__.py'} ['--version']\n"


def test_calls_lists_the_functions_of_a_lookup():
    done = run("calls", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^worker, calls per request \(4 processes\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^    (0\.9|1\.0)\d  wire/netstring\.py:", done.stdout, re.MULTILINE)
    trace = run("calls", "--trace")
    assert trace.returncode == 0, trace.stderr
    assert trace.stdout.count("(socket.send)") == 1


def test_parsing_of_strace():
    from bench.strace import Call, parse_output

    output = (
        "17 1700000000.000100 epoll_wait(5,  <unfinished ...>\n"
        "18 1700000000.000200 close(10)             = 0\n"
        "17 1700000000.000300 <... epoll_wait resumed>[{events=EPOLLIN}], 1023, 90000) = 1\n"
        "18 1700000000.000400 --- SIGTERM {si_signo=SIGTERM} ---\n"
        "18 1700000000.000500 +++ exited with 0 +++\n"
    )
    assert parse_output(output) == [
        Call(17, 1700000000.0001, "epoll_wait", "5,  <unfinished ...>"),
        Call(18, 1700000000.0002, "close", "10)             = 0"),
    ]


def test_parsing_of_perf():
    from bench.perf import parse_output

    output = (
        "4811;;syscalls:sys_enter_recvfrom;12;100.00;;\n"
        "0;;syscalls:sys_enter_open;12;100.00;;\n"
        "<not counted>;;syscalls:sys_enter_close;0;100.00;;\n"
        "17;;context-switches;12;100.00;5.0;M/sec\n"
    )
    assert parse_output(output) == {"recvfrom": 4811, "context-switches": 17}


def test_ratios_are_taken_within_a_repetition():
    from bench.results import Results, Sample
    from bench.targets import BaselineLimits, targets

    samples = []
    for repetition, speed in enumerate((1.0, 0.1, 0.5)):  # The machine is slowed down by others.
        for server, rate, cost in (("naive", 1000, 600), ("pfxhttpd", 5000, 100), ("baseline", 4000, 125)):
            figures = {"rate": rate * speed, "cost": cost / speed}
            samples.append(Sample("map, 4 clients", server, repetition, figures))
    found = targets(Results(samples), BaselineLimits(few_clients=0.75))
    assert [(target.measured, target.limit, target.met) for target in found] == [
        ("5.00", ">= 4.5", True),
        ("0.17", "<= 0.18", True),
        ("0.80", "<= 0.75", False),
    ]
    assert targets(Results([]), BaselineLimits()) == []


def test_the_table_compares_with_the_reference_and_the_baseline():
    from bench.results import Results, Sample
    from bench.table import report

    few, many = "map, 4 busy", "map, 4 busy + 1000 silent"
    counts = {"wrong": 0.0, "lost": 1.0, "silent_lost": 2.0, "least": 7.0, "most": 9.0}
    samples = [
        Sample(few, "pfxhttpd", 0, {"rate": 100.0, "cost": 50.0, **counts}),
        Sample(many, "baseline", 0, {"rate": 50.0, "cost": 80.0, **counts}),
        Sample(many, "pfxhttpd", 0, {"rate": 75.0, "cost": 60.0, **counts}, (few, "pfxhttpd")),
    ]
    last = report({}, Results(samples), []).splitlines()[-1]
    assert last.split("4 busy", 2)[2].split() == ["0.75", "1.20", "1.50", "0.75", "7/9", "3"]


def test_the_plot_shows_what_was_measured():
    from bench.plot import cost_over_clients, label_heights, round_up
    from bench.results import Results, Sample

    samples = [
        Sample("map, 1 client", "naive", 0, {"cost": 9.0}),
        Sample("map, 10000 clients", "naive", 0, {"cost": 123.0}),
    ]
    text = cost_over_clients(Results(samples))
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "naive: 123 µs" in text
    assert "baseline" not in text
    ElementTree.fromstring(cost_over_clients(Results([])))
    assert [round_up(value) for value in (1, 9, 11, 1234, 8001)] == [1, 10, 15, 1500, 10000]
    assert label_heights({"a": 5.0, "b": 4.0, "c": 100.0}) == {"b": 4.0, "a": 18.0, "c": 100.0}
