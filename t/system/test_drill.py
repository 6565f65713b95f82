"""The drill in short: it passes on this tree, it can be repeated, and it notices what must never happen."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
DRILL = TREE / "contrib" / "drill"

pytestmark = pytest.mark.load


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(DRILL.parent)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "drill"]:
        del sys.modules[name]


def run(program: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), "--seed", "7", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.timeout(240)
def test_faults_cost_no_right_answer() -> None:
    from drill.faults import FAULTS

    found = run(DRILL / "run", "--seconds", "15", "--clients", "60")
    assert found.returncode == 0, found.stdout + found.stderr
    rows = re.findall(r"^(\w+(?: \w+)*) {2,}\d+ +(\d+) ", found.stdout, re.MULTILINE)
    assert len(rows) >= 4 and {name for name, _ in rows} <= set(FAULTS)
    assert all(int(right) for _, right in rows), "during each fault some got their right answers"
    total = re.search(r"^(\d+) questions, seed 7: 0 wrong answers", found.stdout, re.MULTILINE)
    assert total and int(total[1]) > 1000


@pytest.mark.parametrize(
    ("right", "wrong", "noticed"),
    [
        ('expected.value_of(question["map"], question["key"])', '"value of another key"', "wrong answers"),
        ('if question["password"] == ', "if user or ", "logins wrongly let in"),
    ],
)
def test_what_must_never_happen_is_noticed(tmp_path: Path, right: str, wrong: str, noticed: str) -> None:
    """A copy of the drill whose backend gives wrong answers."""
    shutil.copytree(DRILL, tmp_path / "contrib" / "drill")
    (tmp_path / "pfxhttpd").symlink_to(TREE / "pfxhttpd")
    for name, old, new in (("backend.py", right, wrong), ("run", "RECOVERY = 30.0", "RECOVERY = 0.1")):
        path = tmp_path / "contrib" / "drill" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    program = tmp_path / "contrib" / "drill" / "run"
    found = run(program, "--only", "bad reload", "--seconds", "0.1", "--clients", "5")
    assert found.returncode == 1 and re.search(f"[1-9][0-9]* {noticed}", found.stdout), found.stdout + found.stderr


def test_each_outcome_is_recognized() -> None:
    from drill.expected import action_of, password_of, value_of
    from drill.invariants import Outcome, judge_login, judge_lookup, judge_policy

    lookups = {
        f"OK {value_of('users', 'k')}": Outcome.RIGHT,
        f"OK {value_of('domains', 'k')}": Outcome.WRONG,
        "OK": Outcome.WRONG,
        "nonsense": Outcome.WRONG,
        "NOTFOUND ": Outcome.ABSENT,
        "TEMP no": Outcome.TEMPORARY,
        "TIMEOUT late": Outcome.TEMPORARY,
        "PERM no": Outcome.PERMANENT,
    }
    assert {reply: judge_lookup("users", "k", reply) for reply in lookups} == lookups
    actions = {
        action_of("a", "b"): Outcome.RIGHT,
        action_of("b", "a"): Outcome.WRONG,
        "": Outcome.WRONG,
        "DUNNO": Outcome.ABSENT,
        "DEFER drill": Outcome.TEMPORARY,
    }
    assert {action: judge_policy("a", "b", action) for action in actions} == actions
    right = password_of("u")
    logins = {
        (right, "OK\t7\tuser=u"): Outcome.RIGHT,
        (right, "OK\t7\tuser=v"): Outcome.LET_IN,
        (right, "OK\t7"): Outcome.LET_IN,
        (right, "OK\t8\tuser=u"): Outcome.WRONG,
        (right, "FAIL\t7\tuser=u"): Outcome.REFUSED,
        (right, "FAIL\t7\tuser=u\ttemp"): Outcome.TEMPORARY,
        (right, "CONT\t7\tx"): Outcome.WRONG,
        ("wrong", "FAIL\t7\tuser=u"): Outcome.RIGHT,
        ("wrong", "OK\t7\tuser=u"): Outcome.LET_IN,
    }
    assert {login: judge_login("u", login[0], 7, login[1]) for login in logins} == logins


def test_left_overs_are_noticed() -> None:
    from drill.leftovers import Usage, complaints

    before = Usage(100 << 20, {"worker": 10, "parking": 8})
    assert Usage(110 << 20, {"worker": 12, "parking": 5}).excess(before) == []
    assert len(Usage(190 << 20, {"worker": 30, "parking": 5}).excess(before)) == 2
    whole = [
        'time=2026-01-01T00:00:00+00:00 level=INFO msg="Reloaded \\"x\\"" pid=1 reason=""',
        "level=ERROR msg=x a=b",
    ]
    assert complaints("\n".join(whole), False) == []
    broken = [
        "timetime=1 level=INFO msg=x",
        "Traceback (most recent call last):",
        "",
        'level=INFO msg="x',
        "Internal error",
    ]
    assert len(complaints("\n".join(broken), False)) == len(broken)


def test_a_line_cut_off_by_a_full_disk_is_told_from_two_lines_in_one() -> None:
    from drill.leftovers import complaints

    cut = ["ti", "time=2026-01-01T00:00:00", 'time=2026-01-01T00:00:00+00:00 level=INFO msg="New conn']
    assert complaints("\n".join(cut), True) == [] and len(complaints("\n".join(cut), False)) == 3
    glued = ["timtime=2026-01-01 level=INFO msg=x", 'time=1 level=INFO msg="New time=2 level=INFO msg=x']
    assert len(complaints("\n".join(glued), True)) == 2


def test_a_seed_gives_the_same_faults_again() -> None:
    from drill.faults import FAULTS as ALL
    from drill.schedule import steps

    families: dict[str, list[str]] = {}
    for name, fault in ALL.items():
        families.setdefault(fault.family, []).append(name)
    first = list(itertools.islice(steps(7, families), 3 * len(ALL)))
    assert first == list(itertools.islice(steps(7, families), 3 * len(ALL)))
    assert first != list(itertools.islice(steps(8, families), 3 * len(ALL)))
    assert {step[0].name for step in first[: len(ALL)]} == set(ALL)
    pairs = [step for step in first if len(step) == 2]
    assert pairs and all(ALL[one.name].family != ALL[other.name].family for one, other in pairs)
