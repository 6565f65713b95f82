"""How the scoreboard counts what several processes write: clients held, on their way, and waiting."""

from __future__ import annotations

import os

import pytest

from pfxhttpd.io.scoreboard import WORKERS, Scoreboard, padded


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def allocate_worker(board: Scoreboard, pool: int = 0, slot: int = 1):
    row = board.allocate_worker(pool, slot, generation=1)
    return row, board.worker(row)


def test_a_client_is_counted_once_on_its_way_to_parking(board):
    _, worker = allocate_worker(board)
    worker.set_held(1)
    assert board.connections == 1
    worker.count_parked()
    worker.set_held(0)
    assert board.connections == board.in_transit == 1
    board.set_parked(1, arrived=1)
    assert board.connections == 1 and board.in_transit == 0


def test_clients_on_their_way_outlive_the_worker_that_gave_them(board):
    row, worker = allocate_worker(board)
    worker.count_parked()
    worker.count_parked()
    board.release_worker(row)
    assert board.in_transit == 2
    board.set_parked(2, arrived=2)
    assert board.connections == 2


def test_the_client_in_the_hand_of_a_worker_that_died_is_gone(board):
    row, worker = allocate_worker(board)
    worker.set_held(1)
    board.release_worker(row)
    assert board.connections == 0


def test_clients_that_were_lost_on_their_way_are_forgotten_once_all_is_quiet(board):
    """A parking process took them from its socket, and died before it said so."""
    _, worker = allocate_worker(board)
    worker.count_parked()
    board.set_parked(0)
    assert board.connections == 1
    board.forget_in_transit()
    assert board.connections == 0
    worker.count_parked()
    assert board.connections == 1


def test_one_that_arrives_before_it_is_counted_as_given_is_no_debt(board):
    """The giver counts after it gave, and parking may be quicker."""
    _, worker = allocate_worker(board)
    worker.set_held(1)
    board.set_parked(1, arrived=1)
    assert board.in_transit == 0 and board.connections >= 1
    worker.count_parked()
    worker.set_held(0)
    assert board.connections == 1


def test_a_row_that_is_free_again_begins_at_nothing(board):
    row, worker = allocate_worker(board, slot=1)
    worker.name(padded("users"))
    worker.busy(1.0, 2.0)
    worker.count_request()
    worker.count_taken()
    board.release_worker(row)
    again, worker = allocate_worker(board, slot=2)
    view = board.view(again)
    assert again == row and view.slot == 2
    assert (view.state, view.requests, view.held, view.entry) == ("starting", 0, 0, "")


def test_a_queue_is_as_long_as_what_was_sent_less_what_was_taken(board):
    row, worker = allocate_worker(board, pool=3)
    pool = board.pool(3)
    for _ in range(3):
        pool.count_sent()
    pool.publish(0)
    assert pool.waiting == 3
    worker.count_taken()
    pool.publish(2)
    assert pool.waiting == 4, "two in the kernel's queue, two behind it"
    board.release_worker(row)
    pool.publish(2)
    assert pool.waiting == 4, "what a dead worker took stays taken"
    pool.reset(0)
    assert pool.waiting == 0
    pool.count_sent()
    pool.publish(0)
    assert pool.waiting == 1


def test_pools_do_not_count_each_others_clients(board):
    _, worker = allocate_worker(board, pool=1)
    one, other = board.pool(1), board.pool(2)
    one.count_sent()
    other.count_sent()
    worker.count_taken()
    one.publish(0)
    other.publish(0)
    assert (one.waiting, other.waiting) == (0, 1)


def test_the_generation_is_everybodys(board):
    board.generation = 7
    _, _ = allocate_worker(board)
    assert board.generation == 7


@pytest.mark.parametrize("name", ["users", "x" * 100, "ü" * 100, ""])
def test_a_name_is_shown_as_far_as_there_is_room(board, name):
    row, worker = allocate_worker(board)
    worker.name(padded(name))
    worker.busy(1.0, 2.0)
    worker.count_request()
    shown = board.view(row).entry.rstrip("\ufffd")
    assert name.startswith(shown) and len(shown.encode()) >= min(len(name.encode()), 39)
    assert board.view(row).requests == 1


def test_there_is_an_end_to_the_rows(board):
    for _ in range(WORKERS):
        board.allocate_worker(0, 1, 1)
    with pytest.raises(RuntimeError, match=str(WORKERS)):
        board.allocate_worker(0, 1, 1)


def test_lost_traces_are_logged_once_a_minute_for_all(board):
    lost = board.lost_traces
    assert lost.add(0, 0, now=100.0) is None
    assert lost.add(4, 1, now=100.0) == (4, 1)
    assert lost.add(2, 0, now=159.9) is None
    assert lost.add(0, 3, now=160.0) == (2, 3)
    assert lost.add(0, 0, now=300.0) is None
    assert lost.total == (6, 4)


def test_what_no_line_was_due_for_is_in_the_next_one(board):
    lost = board.lost_traces
    lost.add(1, 0, now=100.0)
    lost.add(5, 0, now=110.0)
    assert lost.add(0, 0, now=170.0) == (5, 0)


def test_no_loss_of_a_worker_is_forgotten(board):
    """Two processes add at the same time."""
    if (child := os.fork()) == 0:
        for _ in range(300):
            board.lost_traces.add(1, 2, now=1.0)
        os._exit(0)
    for _ in range(300):
        board.lost_traces.add(1, 2, now=1.0)
    assert os.waitpid(child, 0)[1] == 0
    assert board.lost_traces.total == (600, 1200)
