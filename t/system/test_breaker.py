"""The circuit breaker on the real daemon: a black hole costs a few timeouts in all, and nobody else."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kit import ports
from kit.answer import Keyed
from kit.backend import Answer, Backend
from kit.clients import Closed
from kit.configuration import socket_map
from kit.control import reload, status, wait_status
from kit.fallback import NOISE, breaker
from kit.load import Load
from kit.logfmt import parse
from kit.logins import Logins, login
from kit.site import Site
from system.burst import send_burst

WORKERS, FAILURES, TIMEOUT = 8, 5, 2.0
GOOD = Answer(json={"result": "good"})
DOWN = Answer(status=503)
PAUSED = "TEMP backend has failed repeatedly and is given a pause"


def breaker_rule(failures: int = FAILURES, cooldown: str = "60s") -> dict[str, Any]:
    return {"circuit_breaker": {"failures": failures, "cooldown": cooldown}}


def site_of(backend: Backend, *names: str, timeout: str = "2s", **server: Any) -> Site:
    """A daemon whose maps ask /NAME of the backend."""
    maps = {name: socket_map(backend.url(f"/{name}"), timeout=timeout) for name in names}
    return Site(maps, **{"workers": 2, "level": "info", **breaker_rule(), **server})


def transitions(site: Site, target: str, start: int = 0) -> list[str]:
    """The states that the log tells of, in order."""
    lines = [parse(line.partition(" ")[2]) for line in site.log.find("Circuit breaker changed", start)]
    return [line["state"] for line in lines if line["target"] == target]


# -- the black hole -----------------------------------------------------------------------------------------------------


def test_a_thousand_lookups_into_a_black_hole_take_one_timeout(backend: Backend) -> None:
    backend.answer("/hole", silent=True)
    with site_of(backend, "hole", workers=WORKERS) as site:
        backend.forget()
        burst = send_burst(site.map_port, "hole", 100, 10)
        asked = backend.count("/hole")
        print(
            f"1000 lookups: {burst.seconds:.3f} s, {asked} of them reached the black hole; p99 {burst.quantile(0.99):.3f}"
        )
        assert len(burst.replies) == 1000
        assert {reply.split()[0] for reply in burst.replies} == {"TIMEOUT", "TEMP"}
        assert sum(reply.startswith("TIMEOUT ") for reply in burst.replies) == asked
        assert burst.replies.count(PAUSED) == 1000 - asked
        assert WORKERS <= asked < WORKERS + FAILURES
        assert TIMEOUT <= burst.seconds < TIMEOUT + NOISE * 2
        again = send_burst(site.map_port, "hole", 100, 10)
        print(f"the next 1000 lookups: {again.seconds:.3f} s")
        assert set(again.replies) == {PAUSED} and backend.count("/hole") == asked
        assert transitions(site, backend.url("/hole")) == ["open"]


def test_fewer_workers_than_failures_go_once_more(backend: Backend) -> None:
    """No later request goes out once the count is full, however the workers' timeouts fall together."""
    backend.answer("/hole", silent=True)
    with site_of(backend, "hole", timeout="500ms", workers=3) as site:
        backend.forget()
        burst = send_burst(site.map_port, "hole", 50, 4)
        assert FAILURES <= backend.count("/hole") < 3 + FAILURES
        assert burst.seconds < 2 * 0.5 + 2 * NOISE


def pester(site: Site, name: str, over: threading.Event) -> None:
    """A client that asks again and again, until it is over."""
    with site.client() as client:
        while not over.wait(0.02):
            client.ask(name, "k")


def test_a_healthy_target_is_answered_throughout(backend: Backend) -> None:
    """Beside as many black holes as there are workers, each of which is asked and probed all the time."""
    holes = [f"hole{number}" for number in range(WORKERS)]
    for hole in holes:
        backend.answer(f"/{hole}", silent=True)
    backend.answer("/healthy", GOOD)
    rule = breaker_rule(cooldown="1s")
    with site_of(backend, "healthy", *holes, timeout="1s", workers=WORKERS, **rule) as site:
        site.config["server"]["logging"]["level"] = "error"  # thousands of lines would take the time that is measured
        reload(site.daemon, site.config)
        for hole in holes:
            send_burst(site.map_port, hole, WORKERS, 1)
        assert "closed" not in {breaker(site.daemon, backend.url(f"/{hole}")) for hole in holes}
        before = {hole: backend.count(f"/{hole}") for hole in holes}
        over, times = threading.Event(), []
        crowd = [threading.Thread(target=pester, args=(site, hole, over)) for hole in holes]
        for thread in crowd:
            thread.start()
        with site.client() as client:
            until = time.monotonic() + 3.0
            while (asked := time.monotonic()) < until:
                assert client.ask("healthy", "k") == "OK good"
                times.append(time.monotonic() - asked)
        over.set()
        probes = sum(backend.count(f"/{hole}") - before[hole] for hole in holes)
        times.sort()
        p99 = times[int(len(times) * 0.99)]
        print(
            f"{len(times)} healthy lookups beside {probes} probes: median {times[len(times) // 2] * 1000:.2f} ms, "
            f"p99 {p99 * 1000:.1f} ms, slowest {times[-1] * 1000:.1f} ms"
        )
        for thread in crowd:
            thread.join()
        assert p99 < 0.05
        assert times[-1] < 0.5, "and nobody waited for a worker that a probe held"
        assert probes >= WORKERS // 2, "the black holes were probed meanwhile"


def until_ok(site: Site, name: str, within: float) -> float:
    """Asks without a break until the answer is good; how long that took."""
    began = time.monotonic()
    with site.client() as client:
        while client.ask(name, "k") != "OK good":
            assert time.monotonic() - began < within
    return time.monotonic() - began


@pytest.mark.parametrize("bad", [Answer(silent=True), DOWN], ids=["a black hole", "503"])
def test_the_backends_return_is_found_within_the_cooldown(backend: Backend, bad: Answer) -> None:
    backend.answer("/back", bad)
    with site_of(backend, "back", timeout="1s", workers=WORKERS, **breaker_rule(cooldown="1s")) as site:
        send_burst(site.map_port, "back", WORKERS, 1)
        seen = backend.count("/back")
        with Load(("127.0.0.1", site.map_port), 1, map_name="back"):
            backend.wait_requests(seen + 1, "/back")  # the worst moment to come back: a probe has just set out
            backend.answer("/back", GOOD)
            took = until_ok(site, "back", 20)
        print(f"first good answer after {took:.2f} s")
        assert took < 1.0 + 1.0 + NOISE
        states = transitions(site, backend.url("/back"))
        assert states[:2] == ["open", "half-open"] and states[-1] == "closed" and states.count("closed") == 1
        assert breaker(site.daemon, backend.url("/back")) == "closed"


# -- what counts --------------------------------------------------------------------------------------------------------

FAILS = {
    "502": Answer(status=502),
    "503": DOWN,
    "504": Answer(status=504),
    "HTML": Answer(body=b"<html>"),
    "half": Answer(json={"result": "x" * 100}, cut=20),
    "reset": Answer(drop=True, then="reset"),
    "silent": Answer(silent=True),
}
ANSWERS = {
    "404": Answer(status=404),
    "absent": Answer(json={}),
    "error": Answer(json={"error": "no"}),
    "object": Answer(json={"result": {}}),
    "value": GOOD,
}


@pytest.fixture(scope="module")
def kinds(backend: Backend) -> Iterator[Site]:
    for name, answer in {**FAILS, **ANSWERS}.items():
        backend.answer(f"/{name}", answer)
    with site_of(backend, *FAILS, *ANSWERS, timeout="300ms", **breaker_rule(3)) as site:
        yield site


@pytest.mark.parametrize("kind", FAILS)
def test_failures_in_a_row_open_it(kinds: Site, backend: Backend, kind: str) -> None:
    for _ in range(6):
        assert re.match("TEMP |TIMEOUT ", kinds.ask(kind, "k"))
    asked = backend.count(f"/{kind}")
    assert asked == 3 if kind != "reset" else 3 <= asked <= 6, "a broken connection may be tried twice"
    (target,) = [each for each in status(kinds.daemon)["targets"] if each["target"] == backend.url(f"/{kind}")]
    assert (target["breaker"], target["failures"]) == ("open", 3)
    assert 0 <= target["seconds"] < 60
    assert transitions(kinds, backend.url(f"/{kind}")) == ["open"]


@pytest.mark.parametrize("kind", ANSWERS)
def test_whatever_a_living_backend_says_does_not(kinds: Site, backend: Backend, kind: str) -> None:
    for _ in range(6):
        assert not kinds.ask(kind, "k").startswith("T")
    assert backend.count(f"/{kind}") == 6
    assert breaker(kinds.daemon, backend.url(f"/{kind}")) == "closed"


@pytest.mark.parametrize("status", [408, 425, 429, 501, 505])
def test_a_backend_that_refuses_to_answer_one_client_is_not_down(backend: Backend, status: int) -> None:
    backend.answer("/map", Answer(status=status))
    with site_of(backend, "map", **breaker_rule(3)) as site:
        for number in range(6):
            assert site.ask("map", f"k{number}") == f"TEMP backend answered with status code {status}"
        assert transitions(site, backend.url("/map")) == []


def test_500_counts_once_per_key(backend: Backend) -> None:
    backend.answer("/map", Answer(status=500))
    with site_of(backend, "map", **breaker_rule(3)) as site:
        for key in ("a", "a", "b", "a", "b"):
            assert site.ask("map", key).endswith("500")
        assert breaker(site.daemon, backend.url("/map")) == "closed"
        assert site.ask("map", "c").endswith("500") and site.ask("map", "a") == PAUSED
        assert transitions(site, backend.url("/map")) == ["open"]


def test_500_counts_once_per_policy_request_without_the_attributes_that_the_cache_ignores(backend: Backend) -> None:
    backend.answer("/policy", Answer(status=500))
    policy = {"target": backend.url("/policy"), "value_field": "action"}
    with Site(policy_services={"policy": policy}, level="info", **breaker_rule(3)) as site:
        for number in range(4):
            site.act("policy", sender="a", instance=str(number), queue_id=str(number))
        assert breaker(site.daemon, backend.url("/policy")) == "closed"
        for sender in ("b", "c"):
            site.act("policy", sender=sender)
        assert breaker(site.daemon, backend.url("/policy")) == "open"


def test_one_client_with_one_poisoned_key_shuts_nobody_out(backend: Backend) -> None:
    """It asks without a break, before and while others ask; no lookup of theirs is refused, and the breaker stays closed."""
    backend.answer("/map", Keyed({"poison": Answer(status=500)}, GOOD))
    with site_of(backend, "map", workers=4, **breaker_rule(2)) as site:
        over = threading.Event()
        attackers = [threading.Thread(target=ask_until, args=(site, "poison", over)) for _ in range(3)]
        for thread in attackers:
            thread.start()
        try:
            backend.wait_requests(100, "/map")
            assert breaker(site.daemon, backend.url("/map")) == "closed"
            with site.client() as client:
                assert {client.ask("map", f"k{number}") for number in range(300)} == {"OK good"}
        finally:
            over.set()
            for thread in attackers:
                thread.join()
        assert site.log.find("Circuit breaker") == []


def ask_until(site: Site, key: str, over: threading.Event) -> None:
    """A client that asks for one key as fast as it gets replies."""
    with site.client() as client:
        while not over.is_set():
            client.ask("map", key)


def test_a_poisoned_key_that_becomes_the_probe_does_not_prolong_an_outage(backend: Backend) -> None:
    """The key is counted with the first probe; with the second one the breaker closes."""
    backend.answer("/map", DOWN)
    with site_of(backend, "map", **breaker_rule(2, "200ms")) as site:
        for _ in range(2):
            site.ask("map", "k")
        backend.answer("/map", Keyed({"poison": Answer(status=500)}, GOOD))
        until_status(site, "poison", 500, times=2)
        assert site.ask("map", "k") == "OK good"
        states = transitions(site, backend.url("/map"))
        assert states == ["open", "half-open", "open", "half-open", "closed"]


def until_status(site: Site, key: str, status: int, times: int) -> None:
    """Asks for the key until the backend has answered so many times with that status code."""
    with site.client() as client:
        while times:
            reply = client.ask("map", key)
            assert reply == PAUSED or reply.endswith(str(status))
            times -= reply.endswith(str(status))


def test_one_throttled_user_locks_nobody_out(backend: Backend) -> None:
    """429 to one user, and 500 to another: the others log in all the time."""
    answers = {
        "throttled": Answer(429),
        "poisoned": Answer(500),
        "refused": Answer(500, {"Auth-Status": "unknown user"}),
    }
    backend.answer("/users", Keyed(answers, Answer(200), "username"))
    entries = {"login": login(backend.url("/users"), temporary_failure="fail")}
    with (
        Logins(entries, **breaker_rule(2)) as logins,
        logins.client("login") as attacker,
        logins.client("login") as ann,
    ):
        for user in answers:
            for _ in range(6):
                assert attacker.plain(user, "x").startswith("FAIL")
            assert breaker(logins.daemon, backend.url("/users")) == "closed"
            assert ann.plain("ann", "x").startswith("OK")
        for number in range(6):
            attacker.plain("throttled" if number % 2 else "refused", "x")
        assert ann.plain("ann", "x").startswith("OK")
        assert logins.log.find("Circuit breaker") == []


def test_failures_count_only_in_a_row(backend: Backend) -> None:
    with site_of(backend, "map", **breaker_rule(3)) as site:
        for _ in range(3):
            backend.answer("/map", DOWN)
            for _ in range(2):
                assert site.ask("map", "k") == "TEMP backend answered with status code 503"
            backend.answer("/map", GOOD)
            assert site.ask("map", "k") == "OK good"
        assert transitions(site, backend.url("/map")) == []


def test_a_refused_connection_counts_and_a_target_is_one_whoever_asks_it() -> None:
    with ports.refusing() as port:
        target = f"http://127.0.0.1:{port}/"
        maps = {name: socket_map(target) for name in ("one", "two")} | {"other": socket_map(target + "other")}
        with Site(maps, level="info", **breaker_rule(2)) as site:
            for name in ("one", "two"):
                assert "refused" in site.ask(name, "k")
            assert site.ask("one", "k") == site.ask("two", "k") == PAUSED
            assert "refused" in site.ask("other", "k")


def test_our_own_credentials_are_no_outage(backend: Backend) -> None:
    """A login backend that answers 401 is up: nobody gets in, but nobody waits either when that is mended."""
    with Logins({"login": login(backend.url("/login"))}, **breaker_rule(2)) as logins:

        def attempt() -> str:
            with logins.client("login") as client:
                try:
                    return client.plain("ann", "wonderland")
                except Closed:
                    return "closed"

        backend.answer("/login", status=401)
        assert {attempt() for _ in range(4)} == {"closed"} and backend.count("/login") == 4
        assert breaker(logins.daemon, backend.url("/login")) == "closed"
        backend.answer("/login", DOWN)
        assert {attempt() for _ in range(2)} == {"closed"} and backend.count("/login") == 6
        assert breaker(logins.daemon, backend.url("/login")) == "open"
        backend.answer("/login", status=200)
        assert attempt() == "closed" and backend.count("/login") == 6


# -- reloads ------------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_what_is_known_of_a_target_and_begins_anew_with_another(backend: Backend) -> None:
    backend.answer("/old", DOWN)
    backend.answer("/new", GOOD)
    backend.answer("/newer", GOOD)
    with site_of(backend, "old", **breaker_rule(2)) as site:
        for _ in range(3):
            site.ask("old", "k")
        reload(site.daemon)
        assert site.ask("old", "k") == PAUSED and backend.count("/old") == 2
        for path in ("/new", "/newer"):
            site.config["socket_maps"]["old"]["target"] = backend.url(path)
            reload(site.daemon, site.config)
            assert breaker(site.daemon, backend.url(path)) == "closed"
            assert site.ask("old", "k") == "OK good"
        site.config["socket_maps"]["old"]["target"] = backend.url("/old")
        reload(site.daemon, site.config)
        assert site.ask("old", "k").endswith("503"), "it was away, and is a new one"


def test_a_probe_of_a_target_that_is_gone_holds_up_nobody(backend: Backend) -> None:
    """Two workers allow one probe at a time; the one under way is of a target that a reload takes away."""
    backend.answer("/gone", DOWN)
    backend.answer("/stays", DOWN)
    with site_of(backend, "gone", "stays", timeout="4s", **breaker_rule(1, "1s")) as site, site.client() as client:
        for name in ("gone", "stays"):
            assert client.ask(name, "k").endswith("503")
        backend.answer("/gone", silent=True)
        with Load(("127.0.0.1", site.map_port), 1, map_name="gone"):
            backend.wait_requests(2, "/gone")
            del site.config["socket_maps"]["gone"]
            reload(site.daemon, site.config)
        backend.answer("/stays", GOOD)
        until_ok(site, "stays", 2.5)


def test_it_can_be_switched_off(backend: Backend) -> None:
    backend.answer("/off", DOWN)
    with site_of(backend, "off", **breaker_rule(2)) as site:
        for _ in range(3):
            site.ask("off", "k")
        assert breaker(site.daemon, backend.url("/off")) == "open"
        site.config["server"].update(breaker_rule(0))
        reload(site.daemon, site.config)
        for _ in range(6):
            assert site.ask("off", "k").endswith("503")
        assert backend.count("/off") == 8
        assert breaker(site.daemon, backend.url("/off")) == "closed"


def test_status_tells_it_to_people(backend: Backend) -> None:
    with Site({"map": socket_map(backend.url("/shown?token=s3cret"))}, level="info", **breaker_rule(1)) as site:
        backend.answer("/shown", DOWN)
        site.ask("map", "k")
        wait_status(site.daemon, lambda told: told["targets"][0]["breaker"] == "open", "an open breaker")
        shown = site.daemon.run("status").stdout
        assert re.search(rf"^target {backend.url('/shown')}: breaker open for \d+\.\d s, 1 failure$", shown, re.M), (
            shown
        )
        assert "s3cret" not in shown + site.log.text
