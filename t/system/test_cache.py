"""The response cache on the real daemon: what is served when a backend fails, what never is, and that losing it costs no time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any

import pytest
from kit import proc
from kit.backend import Answer, Backend
from kit.configuration import policy, socket_map
from kit.control import reload, serving, wait_status
from kit.fallback import NOISE, TENTH, cache, purge, slowest, wait_cache_serves, wait_cached
from kit.proc import kill, suspended
from kit.site import Site
from kit.waiting import until

DOWN = Answer(status=503)
ECHO = Answer(json={"result": "of {key}"}, fill=True)
KEYS = [f"k{number}" for number in range(300)]


def site_of(backend: Backend, names: tuple[str, ...] = ("map",), **server: Any) -> Site:
    """A daemon whose maps ask /NAME of the backend, and a policy service "pol"."""
    rule = {"enabled": True, "ttl": "60s", **server.pop("response_cache", {})}
    maps = {name: socket_map(backend.url(f"/{name}"), timeout="2s") for name in names}
    policies = {"pol": policy(backend.url("/pol"), timeout="2s")}
    return Site(maps, policies, response_cache=rule, **server)


@pytest.fixture(scope="module")
def shared(backend: Backend) -> Iterator[Site]:
    with site_of(backend) as started:
        yield started


@pytest.fixture
def site(shared: Site) -> Site:
    """A daemon with an empty cache."""
    purge(shared.daemon)
    return shared


@pytest.fixture
def alone(backend: Backend) -> Iterator[Site]:
    """A daemon of one worker, whose cache a test may hurt."""
    with site_of(backend, workers=1) as started:
        backend.answer("/map", ECHO)
        yield started


def temporary(reply: str) -> bool:
    return reply.startswith("TEMP ")


def until_remembered(site: Site, backend: Backend) -> None:
    """Asks in good times and in bad until the cache knows what to say in bad ones."""

    def try_it() -> bool:
        backend.answer("/map", ECHO)
        assert site.ask("map", "again") == "OK of again"
        backend.answer("/map", DOWN)
        return site.ask("map", "again") == "OK of again"

    until(try_it, "an answer that is remembered")


# -- what is served -----------------------------------------------------------------------------------------------------


def test_a_value_is_served_while_the_backend_fails_and_only_then(site: Site, backend: Backend) -> None:
    backend.answer("/map", json={"result": "first"})
    assert site.ask("map", "k") == "OK first"
    held = wait_cached(site.daemon, 1)
    backend.answer("/map", json={"result": "second"})
    assert site.ask("map", "k") == "OK second"
    wait_status(site.daemon, lambda told: told["cache"]["bytes"] == held["bytes"] + 1, "the second value")
    backend.answer("/map", DOWN)
    assert site.ask("map", "k") == "OK second"
    assert temporary(site.ask("map", "another key"))
    assert [line for line in site.log.find("Backend failed") if "cache=hit" in line]
    backend.answer("/map", json={"result": "third"})
    assert site.ask("map", "k") == "OK third"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(json={}),
        Answer(json={"result": None}),
        Answer(json={"result": ""}),
        Answer(json={"result": []}),
        Answer(json={"error": "no"}),
        Answer(json={"result": {"a": 1}}),
        Answer(json={"result": "x", "error": "no"}),
        Answer(json={"result": "x"}, status=404),
        Answer(json={"result": "x"}, status=500),
        Answer(body=b'{"result": "x"'),
    ],
)
def test_neither_absence_nor_errors_are_remembered(site: Site, backend: Backend, answer: Answer) -> None:
    backend.answer("/map", answer)
    backend.answer("/pol", answer)
    assert not site.ask("map", "k").startswith("OK")
    site.act("pol", recipient="k")
    backend.answer("/map", DOWN)
    backend.answer("/pol", DOWN)
    assert temporary(site.ask("map", "k"))
    assert site.act("pol", recipient="k") == "DEFER Temporary server problem"
    assert cache(site.daemon)["entries"] == 0


@pytest.mark.parametrize("action", ["REJECT no", "DUNNO", "PREPEND X: y", "450 4.2.0 later", "OK"])
def test_a_valid_action_is_served(site: Site, backend: Backend, action: str) -> None:
    backend.answer("/pol", json={"action": action})
    assert site.act("pol", recipient="k") == action
    wait_cached(site.daemon, 1)
    backend.answer("/pol", DOWN)
    assert site.act("pol", recipient="k") == action


@pytest.mark.parametrize("action", ["", "200", None, {}])
def test_what_is_no_valid_action_is_not(site: Site, backend: Backend, action: Any) -> None:
    backend.answer("/pol", json={"action": action})
    site.act("pol", recipient="k")
    backend.answer("/pol", DOWN)
    assert site.act("pol", recipient="k") == "DEFER Temporary server problem"


def test_what_the_backend_has_taken_back_does_not_come_again(site: Site, backend: Backend) -> None:
    """The two lookups go to different workers: one is held while the other asks."""
    backend.answer("/map", json={"result": "value"})
    backend.answer("/pol", json={"action": "OK"})
    with site.client() as one, site.client() as other, site.policy_client("pol") as checking:
        assert one.ask("map", "k") == "OK value"
        assert checking.ask(recipient="k") == "OK"
        wait_cached(site.daemon, 2)
        backend.answer("/map", json={})
        backend.answer("/pol", json={})
        assert other.ask("map", "k") == "NOTFOUND "
        assert checking.ask(recipient="k") == "DUNNO"
        wait_cached(site.daemon, 0)
        backend.answer("/map", DOWN)
        backend.answer("/pol", DOWN)
        assert temporary(one.ask("map", "k")) and temporary(other.ask("map", "k"))
        assert checking.ask(recipient="k") == "DEFER Temporary server problem"


def test_an_error_says_nothing_about_what_is_remembered(alone: Site, backend: Backend) -> None:
    for answer in (
        Answer(json={"error": "tenant locked"}),
        Answer(status=404),
        Answer(json={"result": {}, "action": "1"}),
    ):
        backend.answer("/map", json={"result": "value"})
        backend.answer("/pol", json={"action": "OK"})
        assert alone.ask("map", "k") == "OK value"
        assert alone.act("pol", recipient="k") == "OK"
        backend.answer("/map", answer)
        backend.answer("/pol", answer)
        assert alone.ask("map", "k").startswith("PERM ")
        assert alone.act("pol", recipient="k").startswith("DEFER ")
        backend.answer("/map", DOWN)
        backend.answer("/pol", DOWN)
        assert alone.ask("map", "k") == "OK value"
        assert alone.act("pol", recipient="k") == "OK"


# -- under which name ---------------------------------------------------------------------------------------------------


def test_no_entry_is_answered_with_anothers(backend: Backend) -> None:
    """Names and keys that read the same when they are joined carelessly; half of the questions are asked before."""
    names = ("a", "ab", "a:b", "a/b", "pol", "socket_map")
    with site_of(backend, names) as site:
        for name in names:
            backend.answer(f"/{name}", json={"result": name + " of {key}"}, fill=True)
        questions = [("a", key) for key in ("bc", "b:c", ":bc", "b/c", " bc", "b c", "", "abc", "\u00fcc", "b\x00c")]
        questions += [("ab", "c"), ("ab", ""), ("a:b", "c"), ("a/b", "c"), ("socket_map", "ac")]
        questions += [("pol", key) for key in ("", "recipient=k", "request=smtpd_access_policy\nrecipient=k", "k")]
        asked, unasked = questions[::2], questions[1::2]
        with site.client() as client:
            for name, key in asked:
                assert client.ask(name, key) == f"OK {name} of {key}".replace("\0", " ")
            wait_cached(site.daemon, len(asked))
            for name in names:
                backend.answer(f"/{name}", DOWN)
            backend.answer("/pol", DOWN)
            for name, key in asked:
                assert client.ask(name, key) == f"OK {name} of {key}".replace("\0", " ")
            for name, key in unasked:
                assert temporary(client.ask(name, key)), (name, key)
        assert site.act("pol", recipient="k") == "DEFER Temporary server problem"


def test_a_map_and_a_policy_of_one_name(backend: Backend) -> None:
    with site_of(backend, ("pol",)) as site:
        backend.answer("/pol", json={"action": "REJECT by policy"})
        site.act("pol", {}, recipient="k")
        wait_cached(site.daemon, 1)
        backend.answer("/pol", DOWN)
        for key in ("k", "recipient=k", "", "request=smtpd_access_policy\nrecipient=k\n\n"):
            assert temporary(site.ask("pol", key))
        assert site.act("pol", recipient="k") == "REJECT by policy"


REQUEST = {"protocol_state": "RCPT", "sender": "a@example.test", "recipient": "b@example.test", "client_address": "::1"}
PER_MESSAGE = {"instance": "1.2.3", "queue_id": "ABC", "client_port": "1025", "stress": ""}


def test_policies_are_remembered_without_what_differs_between_messages(site: Site, backend: Backend) -> None:
    backend.answer("/pol", json={"action": "REJECT no"})
    assert site.act("pol", {**REQUEST, **PER_MESSAGE}) == "REJECT no"
    wait_cached(site.daemon, 1)
    backend.answer("/pol", DOWN)
    for name in PER_MESSAGE:
        assert site.act("pol", {**REQUEST, **PER_MESSAGE, name: "other"}) == "REJECT no", name
    assert site.act("pol", REQUEST) == "REJECT no"
    backwards = dict(reversed([*REQUEST.items(), *PER_MESSAGE.items(), ("request", "smtpd_access_policy")]))
    with site.policy_client("pol") as client:
        client.send_raw("".join(f"{name}={value}\n" for name, value in backwards.items()).encode() + b"\n")
        assert client.reply() == "REJECT no", "in another order"
    for name in REQUEST:
        assert site.act("pol", {**REQUEST, name: "other"}).startswith("DEFER"), name
    assert site.act("pol", {**REQUEST, "more": ""}).startswith("DEFER")
    less = {name: value for name, value in REQUEST.items() if name != "sender"}
    assert site.act("pol", less).startswith("DEFER")
    swapped = {**REQUEST, "sender": REQUEST["recipient"], "recipient": REQUEST["sender"]}
    assert site.act("pol", swapped).startswith("DEFER")


def test_an_entry_says_what_to_leave_out(backend: Backend) -> None:
    entry = policy(backend.url("/pol"), timeout="2s", cache_ignore=["size"])
    with Site(policy_services={"pol": entry}, response_cache={"enabled": True}) as site:
        backend.answer("/pol", json={"action": "OK"})
        site.act("pol", size="1", instance="1")
        wait_cached(site.daemon, 1)
        backend.answer("/pol", DOWN)
        assert site.act("pol", size="2", instance="1") == "OK"
        assert site.act("pol", size="1", instance="2").startswith("DEFER")


# -- how long -----------------------------------------------------------------------------------------------------------


def until_it_is_gone(site: Site, since: float) -> tuple[float, float]:
    """Ages of the value when it was served last and when it was first not served."""
    served = 0.0
    with site.client() as client:
        while True:
            asked = time.monotonic()
            reply = client.ask("map", "k")
            if temporary(reply):
                return served, time.monotonic() - since
            assert reply == "OK value"
            served = asked - since
            assert served < 20


def test_nothing_is_served_after_its_ttl(backend: Backend) -> None:
    with site_of(backend, response_cache={"ttl": "1s"}) as site:
        backend.answer("/map", json={"result": "value"})
        before = time.monotonic()
        assert site.ask("map", "k") == "OK value"
        after = time.monotonic()
        wait_cached(site.daemon, 1)
        backend.answer("/map", DOWN)
        served, gone = until_it_is_gone(site, before)
        assert served <= 1.0 + (after - before), served
        assert gone >= 1.0, gone


def test_a_reload_with_a_shorter_ttl_holds_for_what_is_there(backend: Backend) -> None:
    with site_of(backend) as site:
        backend.answer("/map", json={"result": "value"})
        before = time.monotonic()
        assert site.ask("map", "k") == "OK value"
        after = time.monotonic()
        wait_cached(site.daemon, 1)
        backend.answer("/map", DOWN)
        site.config["server"]["response_cache"]["ttl"] = "2s"
        reload(site.daemon, site.config)
        served, gone = until_it_is_gone(site, before)
        assert 0 < served <= 2.0 + (after - before), "it survived the reload, and no longer than it may"
        assert 2.0 <= gone < 20


# -- what it survives ---------------------------------------------------------------------------------------------------


def test_workers_and_configurations_come_and_go(backend: Backend) -> None:
    with site_of(backend) as site:
        backend.answer("/map", json={"result": "value"})
        with site.client() as client:
            assert client.ask("map", "k") == "OK value"
            wait_cached(site.daemon, 1)
            backend.answer("/map", DOWN)
            assert client.ask("map", "k") == "OK value"
            site.config["server"]["worker_pool"]["max_workers"] = 3
            reload(site.daemon, site.config)
            assert client.ask("map", "k") == "OK value", "after a reload"
        for pid in (old := site.daemon.workers()):
            kill(pid)
        until(lambda: not set(old) & set(site.daemon.workers()), "other workers")
        wait_status(site.daemon, serving(3), "three of them")
        assert site.ask("map", "k") == "OK value", "after all workers died"


def test_on_and_off_by_reload(backend: Backend) -> None:
    with site_of(backend, response_cache={"enabled": False}) as site:
        backend.answer("/map", ECHO)
        site.ask("map", "again")
        assert "pfxhttpd: cache" not in site.daemon.children().values()
        assert site.daemon.run("cache", "purge").returncode == os.EX_UNAVAILABLE
        backend.answer("/map", DOWN)
        assert temporary(site.ask("map", "again"))
        for _ in range(2):
            site.config["server"]["response_cache"]["enabled"] = True
            reload(site.daemon, site.config)
            wait_cache_serves(site.daemon)
            assert cache(site.daemon)["entries"] == 0
            until_remembered(site, backend)
            site.config["server"]["response_cache"]["enabled"] = False
            reload(site.daemon, site.config)
            until(lambda: "pfxhttpd: cache" not in site.daemon.children().values(), "the cache's end")
            off = {"enabled": False, "entries": 0, "bytes": 0, "hits": 0, "misses": 0, "evictions": 0}
            wait_status(site.daemon, lambda told: told["cache"] == off, "no cache")
            assert temporary(site.ask("map", "again"))
        assert not list(site.daemon.runtime_directory.glob("cache/*"))


# -- when it is lost ----------------------------------------------------------------------------------------------------


WEATHER = pytest.mark.parametrize(
    "answer, expected", [(ECHO, "OK of k"), (DOWN, "TEMP ")], ids=["a healthy backend", "an outage"]
)


@WEATHER
def test_a_cache_that_is_stopped_costs_nobody_a_tenth_of_a_second(
    alone: Site, backend: Backend, answer: Answer, expected: str
) -> None:
    assert alone.ask("map", "known") == "OK of known"
    wait_cached(alone.daemon, 1)
    backend.answer("/map", answer)
    with suspended(alone.daemon.process_named("cache")), alone.client() as client:
        longest = slowest(client, "map", KEYS, expected)
    print(f"slowest lookup with a stopped cache: {longest * 1000:.1f} ms")
    assert longest < TENTH + NOISE
    backend.answer("/map", DOWN)
    until(lambda: alone.ask("map", "known") == "OK of known", "a cache that goes on where it was stopped")


@WEATHER
def test_a_cache_that_is_killed_costs_nobody_anything(
    alone: Site, backend: Backend, answer: Answer, expected: str
) -> None:
    alone.ask("map", "known")
    wait_cached(alone.daemon, 1)
    backend.answer("/map", answer)
    mark = alone.log.position
    kill(alone.daemon.process_named("cache"))
    with alone.client() as client:
        longest = slowest(client, "map", KEYS, expected)
    print(f"slowest lookup with a killed cache: {longest * 1000:.1f} ms")
    assert longest < TENTH + NOISE
    alone.log.wait_for("Process died.*process=cache.*SIGKILL", start=mark)
    wait_cache_serves(alone.daemon)
    until_remembered(alone, backend)


def test_a_full_cache_forgets_what_nobody_asked_for_longest(backend: Backend) -> None:
    with site_of(backend, response_cache={"max_entries": 20}, workers=1) as site, site.client() as client:
        backend.answer("/map", ECHO)
        assert slowest(client, "map", KEYS, "OK of k") < TENTH + NOISE
        wait_status(site.daemon, lambda told: told["cache"]["evictions"] == 280, "evictions")
        assert cache(site.daemon)["entries"] == 20
        backend.answer("/map", DOWN)
        assert [client.ask("map", key) for key in KEYS[280:]] == [f"OK of {key}" for key in KEYS[280:]]
        assert temporary(client.ask("map", KEYS[279]))
        told = cache(site.daemon)
        assert (told["hits"], told["misses"]) == (20, 1)


def test_strangers_on_its_socket_change_nothing(alone: Site, backend: Backend) -> None:
    path = str(alone.daemon.runtime_directory / "cache" / "cache.sock")
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    alone.ask("map", "known")
    wait_cached(alone.daemon, 1)
    pid = alone.daemon.process_named("cache")
    with contextlib.ExitStack() as crowd:
        for _ in range(200):
            silent = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            silent.connect(path)
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client(path, "AF_UNIX", authkey=b"guessed")
        with alone.client() as client:
            assert slowest(client, "map", KEYS, "OK of k") < TENTH + NOISE
        backend.answer("/map", DOWN)
        assert alone.ask("map", "known") == "OK of known"
    assert alone.daemon.process_named("cache") == pid


def test_it_ends_with_its_master(backend: Backend) -> None:
    with site_of(backend) as site:
        cache = site.daemon.process_named("cache")
        kill(site.daemon.pid)
        site.log.wait_end()
        assert not proc.is_running(cache)
        site.daemon.destroy()


# -- what the operator sees and does ------------------------------------------------------------------------------------


def test_purging(site: Site, backend: Backend) -> None:
    def by_command(*arguments: str) -> str:
        done = site.daemon.run("cache", "purge", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    for last in (False, True):
        backend.answer("/map", ECHO)
        backend.answer("/pol", json={"action": "OK"})
        for key in ("one", "two words", '"<>"'):
            site.ask("map", key)
        site.act("pol", recipient="k")
        wait_cached(site.daemon, 4)
        if not last:
            assert purge(site.daemon) == 4, "and what was stored before is not taken for stored still"
    backend.answer("/map", DOWN)
    backend.answer("/pol", DOWN)
    assert purge(site.daemon, "map", "nobody's") == 0
    assert by_command("map", "two words") == "1 forgotten\n"
    assert purge(site.daemon, "map", "<>") == 1
    assert site.ask("map", "one") == "OK of one"
    assert temporary(site.ask("map", "two words")) and temporary(site.ask("map", '"<>"'))
    assert by_command("map") == "1 forgotten\n"
    assert site.act("pol", recipient="k") == "OK"
    assert purge(site.daemon, "pol") == 1
    assert site.act("pol", recipient="k").startswith("DEFER")
    assert by_command() == "0 forgotten\n"


def test_status_tells_of_the_cache_and_its_targets(backend: Backend) -> None:
    maps = {"map": socket_map(backend.url("/map?api_key=s3cret"), timeout="2s")}
    with Site(maps, response_cache={"enabled": True}) as site:
        backend.answer("/map", json={"result": "value"})
        site.ask("map", "k")
        assert 0 < wait_cached(site.daemon, 1)["bytes"] < 1000
        backend.answer("/map", DOWN)
        site.ask("map", "k")
        site.ask("map", "l")
        told = cache(site.daemon)
        assert (told["hits"], told["misses"], told["evictions"]) == (1, 1, 0)
        shown = site.daemon.run("status").stdout
        assert f"cache: 1 entries, {told['bytes']} bytes, 1 hits, 1 misses, 0 evictions" in shown
        assert f"target {backend.url('/map')}: breaker closed" in shown
        assert "s3cret" not in shown + site.daemon.run("status", "--json").stdout + site.log.text
