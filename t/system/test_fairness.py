"""More busy clients than workers: each gets its share, and those that come late are let in."""

from __future__ import annotations

import contextlib
import statistics

import pytest
from kit import ports
from kit.clients import SocketMap
from kit.configuration import configuration, listener
from kit.load import Load

pytestmark = pytest.mark.alone

CLIENTS, WORKERS, ROUNDS = 200, 4, 40


def shop(serve, nginx):
    """A server with a fast map, and a queue that all clients fit into; its port."""
    port = ports.free()
    serve(
        configuration(
            listener("socket_map", "map", port),
            socket_maps={"map": nginx.fixed()},
            worker_pool={"max_workers": WORKERS, "max_queue": 2 * CLIENTS},
            level="info",
        )
    )
    return port


def test_no_client_is_more_than_three_times_slower_than_the_median(serve, nginx):
    port = shop(serve, nginx)
    with Load(("127.0.0.1", port), CLIENTS) as load:
        before = load.wait_each(1).answers
        after = load.wait_answers(CLIENTS * ROUNDS)
        got = sorted(now - then for now, then in zip(after.answers, before))
        assert load.finish().flawless()
    assert got[0] * 3 >= statistics.median(got), got


def test_new_clients_get_their_turn_among_busy_ones(serve, nginx):
    """Twenty come, one after the other, each before the busy ones have had so many answers that it was their turn often."""
    port = shop(serve, nginx)
    with Load(("127.0.0.1", port), CLIENTS) as load, contextlib.ExitStack() as stack:
        load.wait_each(1)
        before = load.result().total
        for _ in range(20):
            client = stack.enter_context(SocketMap(("127.0.0.1", port)))
            assert client.ask("map", "late") == "OK fixed"
        assert load.result().total - before < 20 * 3 * CLIENTS
        assert load.finish().flawless()
